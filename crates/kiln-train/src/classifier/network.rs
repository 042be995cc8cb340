//! The networks that can be trained to classify images.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use kiln_data::{Datasets, ImageDataset};
use kiln_eval::{DigitClassifier, ImageClassifier, ImageClassifierConfig};
use kiln_models::{WeightsError, WeightsType};

use crate::classifier::distortion::Surroundings;
use crate::error::TrainError;
use crate::experiment::ClassifierExperiment;

/// A network that classifies images.
pub(crate) trait Classifier: Module + ModuleDisplay + Sync + 'static {
    /// The title of the curves and the dashboard.
    const TITLE: &'static str;
    /// What is around the images, for their distortion.
    const SURROUNDINGS: Surroundings;
    /// Whether mirrored images have the same class.
    const FLIPS: bool;

    /// Refuses data that it cannot learn from.
    fn check_data(datasets: &Datasets) -> Result<(), TrainError>;
    /// A network with initial weights from the experiment's seed.
    fn untrained(experiment: &ClassifierExperiment, datasets: &Datasets, device: &Device) -> Self;
    /// Unnormalised log-probabilities, `[batch, classes]`, of images `[batch, channels, height, width]` in [-1, 1].
    fn logits(&self, images: Tensor<4>) -> Tensor<2>;
    /// Writes the weights, with `facts` in the file's header.
    fn save(&self, path: &Path, facts: &BTreeMap<String, String>) -> Result<(), WeightsError>;
}

impl Classifier for DigitClassifier {
    const TITLE: &'static str = "digit classifier";
    const SURROUNDINGS: Surroundings = Surroundings::Black;
    const FLIPS: bool = false; // a mirrored digit is not a digit

    fn check_data(datasets: &Datasets) -> Result<(), TrainError> {
        for set in [&datasets.train, &datasets.validation] {
            let is_digit = |label: usize| label < Self::CLASSES;
            if !labels(set).all(|label| label.is_some_and(is_digit)) {
                return Err(TrainError::Run(format!(
                    "the images of {} have no labels from 0 to 9 for the digit classifier to learn: give it MNIST, or a relative of ten classes, or choose a network for other images by a table [classifier]",
                    set.name()
                )));
            }
        }
        Ok(())
    }

    fn untrained(experiment: &ClassifierExperiment, _: &Datasets, device: &Device) -> Self {
        Self::new(device, experiment.seed)
    }

    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward(images).logits
    }

    fn save(&self, path: &Path, facts: &BTreeMap<String, String>) -> Result<(), WeightsError> {
        kiln_models::save_weights(self, path, WeightsType::F16, facts)
    }
}

impl Classifier for ImageClassifier {
    const TITLE: &'static str = "image classifier";
    const SURROUNDINGS: Surroundings = Surroundings::Edge;
    const FLIPS: bool = true;

    fn check_data(datasets: &Datasets) -> Result<(), TrainError> {
        for set in [&datasets.train, &datasets.validation] {
            if !set.has_labels() {
                let reason = match set.unlabelled() {
                    Some(reason) => format!("{reason}, so the images have no labels"),
                    None => format!("the images of {} have no labels", set.name()),
                };
                return Err(TrainError::Run(format!(
                    "{reason} for the classifier to learn: give it a data set with classes, such as a folder with a subfolder for each"
                )));
            }
        }
        let count = classes(datasets);
        if count < 2 {
            return Err(TrainError::Run(format!(
                "all images of {} have the same label, so there is nothing for the classifier to learn: give it at least two classes",
                datasets.train.name()
            )));
        }
        Ok(())
    }

    fn untrained(experiment: &ClassifierExperiment, datasets: &Datasets, device: &Device) -> Self {
        let config = ImageClassifierConfig {
            in_channels: experiment.data.channels,
            sample_size: experiment.data.size,
            num_classes: classes(datasets),
            network: experiment.classifier.clone().unwrap_or_default(),
        };
        Self::new(config, device, experiment.seed)
    }

    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        Self::logits(self, images)
    }

    fn save(&self, path: &Path, facts: &BTreeMap<String, String>) -> Result<(), WeightsError> {
        Self::save(self, path, facts)
    }
}

fn labels(set: &ImageDataset) -> impl Iterator<Item = Option<usize>> {
    (0..set.len()).map(|image| set.label(image))
}

/// The number of classes: those with names, and at least the largest label plus 1.
fn classes(datasets: &Datasets) -> usize {
    let sets = [&datasets.train, &datasets.validation];
    let largest = sets.into_iter().flat_map(labels).flatten().max();
    let labelled = largest.map_or(0, |label| label + 1);
    labelled.max(datasets.train.class_names().len())
}

#[cfg(test)]
mod tests {
    use kiln_data::ImageShape;

    use super::*;

    fn datasets(train: Option<&[u32]>, validation: Option<&[u32]>) -> Datasets {
        let [train, validation] = [train, validation].map(|labels| {
            let shape = ImageShape {
                channels: 1,
                height: 1,
                width: 1,
            };
            let images = labels.map_or(3, <[u32]>::len);
            let labels = labels.map(<[u32]>::to_vec);
            ImageDataset::from_pixels("things", shape, vec![0; images], labels).unwrap()
        });
        Datasets { train, validation }
    }

    #[test]
    fn classes_are_counted_in_both_splits() {
        assert_eq!(classes(&datasets(Some(&[0, 3, 1]), Some(&[2]))), 4);
        assert_eq!(classes(&datasets(Some(&[0, 1]), Some(&[5, 0]))), 6);
        assert_eq!(classes(&datasets(None, None)), 0);
    }

    #[test]
    fn data_without_classes_is_refused() {
        let refusal = |datasets| match ImageClassifier::check_data(&datasets) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(refusal(datasets(Some(&[0, 1]), Some(&[1]))), "");
        assert!(refusal(datasets(Some(&[0, 0]), Some(&[0]))).contains("two classes"));
        assert!(refusal(datasets(None, Some(&[0]))).contains("no labels"));
        assert!(refusal(datasets(Some(&[0, 1]), None)).contains("no labels"));
    }
}
