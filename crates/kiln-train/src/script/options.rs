//! The place and the settings of a training.

use std::path::{Path, PathBuf};

use kiln_data::{DataConfig, Datasets, Progress};
use kiln_hub::{HubSettings, open_data_set};
use kiln_pipeline::Devices;

use crate::error::TrainError;
use crate::learner::session::StopSignal;
use crate::learner::strategy::Strategy;
use crate::ranks::Ranks;
use crate::run_folder::label::RunLabel;

/// The place and the settings of a training.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The run folder. It gets `config.toml`, `vqvae/` and `diffusion/` (checkpoints, `metrics.csv`, `curves.svg`,
    /// pictures), `latents/`, and in the end `model/` and, if images were measured, `best/` in the diffusers layout.
    pub out: PathBuf,
    /// Continue from the newest good checkpoint, if there is one.
    pub resume: bool,
    /// The training images, instead of the data set that the experiment names. They must have the shape of its
    /// `[data]`.
    pub data: Option<Datasets>,
    /// Whether the experiment's `data.path` was named just now. A resumed run then looks nowhere else.
    pub data_is_named: bool,
    /// The source of a data set on the Hub.
    pub hub: HubSettings,
    /// The devices that compute.
    pub devices: Devices,
    /// The way in which several devices share the work.
    pub strategy: Strategy,
    /// The processes that train together, each on its own `devices`, with one shared run folder.
    pub ranks: Ranks,
    /// Latent diffusion: the VQ-VAE to use instead of the run folder's own.
    pub vqvae: Option<PathBuf>,
    /// A trained model whose weights the network begins with, instead of random ones. Latent diffusion uses its VQ-VAE
    /// if there is no other.
    pub initial_weights: Option<PathBuf>,
    /// Of a distillation: a student of the same teacher whose weights this one begins with. The `initial_weights` are then the
    /// teacher's alone.
    pub student: Option<PathBuf>,
    /// What people call the run, and the code that it is started from. It is added to that of an earlier part.
    pub label: RunLabel,
    /// Write an event file for TensorBoard into the folder of the stage, beside `metrics.csv`. A resumed training does what
    /// its earlier part did.
    pub tensorboard: bool,
    /// The share of its steps after which the training pauses, at the end of a round and with its validation. A resume goes
    /// on from there.
    pub pause_after: Option<f64>,
    /// Tells the training to save and stop.
    pub stop: StopSignal,
}

impl RunOptions {
    /// A training from the start, on one CPU, in the run folder `out`.
    pub fn new(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            resume: false,
            data: None,
            data_is_named: false,
            hub: HubSettings::from_environment(),
            devices: Devices::cpu(),
            strategy: Strategy::Main,
            ranks: Ranks::alone(),
            vqvae: None,
            initial_weights: None,
            student: None,
            label: RunLabel::default(),
            tensorboard: false,
            pause_after: None,
            stop: StopSignal::default(),
        }
    }

    /// The images to train on.
    pub(crate) fn datasets(
        &self,
        config: &DataConfig,
        progress: &dyn Progress,
    ) -> Result<Datasets, TrainError> {
        let datasets = self.own_datasets(config, progress)?;
        let fingerprint = datasets.train.fingerprint();
        self.ranks.require_same("training set", fingerprint)?;
        Ok(datasets)
    }

    fn own_datasets(
        &self,
        config: &DataConfig,
        progress: &dyn Progress,
    ) -> Result<Datasets, TrainError> {
        let Some(datasets) = &self.data else {
            return Ok(open_data_set(config, &self.hub, progress)?);
        };
        let expected = config.shape();
        for (name, set) in [
            ("training", &datasets.train),
            ("validation", &datasets.validation),
        ] {
            if set.is_empty() || set.shape() != expected {
                return Err(TrainError::Run(format!(
                    "the given {name} set has {} images of {:?}: it must have at least one, and all must be {expected:?} as data.size and data.channels say",
                    set.len(),
                    set.shape(),
                )));
            }
        }
        Ok(datasets.clone())
    }
}

#[cfg(test)]
mod tests {
    use kiln_data::{ImageDataset, ImageShape, NoProgress};

    use super::*;
    use crate::experiment::Experiment;

    #[test]
    fn images_that_are_handed_over_have_the_shape_of_the_config() {
        let text = include_str!("../../../../configs/mnist-quick.toml");
        let overrides = ["data.dataset=own".to_owned()];
        let experiment = Experiment::parse(text, "mnist-quick", &overrides).unwrap();
        let set = |side: usize, images: usize| {
            let shape = ImageShape {
                channels: 1,
                height: side,
                width: side,
            };
            ImageDataset::from_pixels("own", shape, vec![7; images * side * side], None).unwrap()
        };
        let found = |train, validation| {
            let options = RunOptions {
                data: Some(Datasets { train, validation }),
                ..RunOptions::new(Path::new("nowhere"))
            };
            options.datasets(&experiment.data, &NoProgress)
        };
        assert_eq!(found(set(32, 3), set(32, 1)).unwrap().train.len(), 3);
        for (train, validation, name) in [
            (set(16, 3), set(32, 1), "training"),
            (set(32, 3), set(16, 1), "validation"),
            (set(32, 3), set(32, 0), "validation"),
        ] {
            let sentence = found(train, validation).unwrap_err().to_string();
            assert!(sentence.contains(name), "{sentence}");
        }
        // The program gives no data, although the config says so.
        let options = RunOptions::new(Path::new("nowhere"));
        let sentence = options.datasets(&experiment.data, &NoProgress).unwrap_err();
        assert!(sentence.to_string().contains("folder"), "{sentence}");
    }
}
