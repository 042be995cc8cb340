//! The classes of a conditional model: the network's input for the content of an image.
//!
//! With `label_dropout` some images are shown without their class, which is a class of its own: the *null class*, the
//! last row of the network's table. The network then works with and without classes, and sampling can extrapolate from
//! one to the other: classifier-free guidance (Ho and Salimans 2022, algorithm 1).

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_data::{Datasets, ImageDataset};
use kiln_diffusion::noise;

use crate::experiment::{Experiment, ExperimentError};

/// Separates the random numbers that drop labels from the ones for timesteps.
const DROPOUT: u64 = 0x6472_6f70_6f75_7421;

/// The classes that a network gets with its training images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Labelling {
    /// The number of classes in the data set. The null class, if there is one, comes after them.
    pub(crate) count: usize,
    /// Share of the images that are shown under the null class.
    dropout: f64,
    seed: u64,
}

impl Labelling {
    /// The classes of `datasets`, for a network with classes.
    ///
    /// # Errors
    /// If the data set has no labels, or the network's table does not have the right number of rows.
    pub(crate) fn of(
        experiment: &Experiment,
        datasets: &Datasets,
    ) -> Result<Option<Self>, ExperimentError> {
        let Datasets { train, validation } = datasets;
        let count = train.class_names().len();
        let has_labels = train.has_labels() && validation.has_labels() && count > 0;
        let unlabelled = train.unlabelled();
        experiment.check_classes(train.name(), has_labels.then_some(count), unlabelled)?;
        let is_conditional = experiment.unet.num_class_embeds.is_some();
        Ok(is_conditional.then_some(Self {
            count,
            dropout: experiment.stage_2.label_dropout,
            seed: experiment.seed ^ DROPOUT,
        }))
    }

    /// The class that the network gets for an image of class `label` in slot `slot` of training step `step`.
    pub(crate) fn shown(&self, label: usize, slot: usize, step: usize) -> usize {
        if noise::uniform(self.seed, slot as u64, step as u64) < self.dropout {
            self.count
        } else {
            label
        }
    }

    /// The true class of image `index` of `dataset`.
    pub(crate) fn label(&self, dataset: &ImageDataset, index: u32) -> usize {
        // All images have labels; otherwise `of` would have refused the data set.
        dataset.label(index as usize).unwrap_or(self.count)
    }
}

/// Labels as a network's input, or places in a batch: `[count]`.
pub(crate) fn index_tensor(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
    let count = indices.len();
    Tensor::from_data(TensorData::new(indices, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(dropout: f64, seed: u64) -> Vec<usize> {
        let classes = Labelling {
            count: 3,
            dropout,
            seed,
        };
        (0..20_000)
            .map(|draw| classes.shown(draw % 3, draw % 50, draw / 50))
            .collect()
    }

    #[test]
    fn as_many_labels_are_dropped_as_asked_for() {
        for dropout in [0.1, 0.5] {
            let dropped = shown(dropout, 7)
                .iter()
                .filter(|&&label| label == 3)
                .count();
            // Five standard deviations of a binomial distribution.
            let expected = 20_000.0 * dropout;
            let tolerance = 5.0 * (expected * (1.0 - dropout)).sqrt();
            assert!((dropped as f64 - expected).abs() < tolerance, "{dropped}");
        }
    }

    #[test]
    fn which_labels_are_dropped_depends_on_seed_slot_and_step_alone() {
        assert_eq!(shown(0.2, 1), shown(0.2, 1));
        assert_ne!(shown(0.2, 1), shown(0.2, 2));
        let dropped = shown(0.2, 1);
        assert_ne!(
            dropped[..50],
            dropped[300..350],
            "the same classes at another step"
        );
    }

    #[test]
    fn labels_stay_without_dropout_and_where_they_are_not_dropped() {
        for dropout in [0.0, 0.3] {
            for (draw, label) in shown(dropout, 5).into_iter().enumerate() {
                assert!(label == draw % 3 || (dropout > 0.0 && label == 3));
            }
        }
    }
}
