//! The real images that a model is compared with.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use kiln_data::{
    DataConfig, DataError, DatasetKind, Datasets, ImageDataset, forbid_downloads, held_out,
    is_on_the_hub,
};
use kiln_hub::{HubSettings, TransportError};
use kiln_train::{Experiment, RunRecord};

use super::{hub_arguments::HubArguments, training::overrides};
use crate::terminal::{self, DataProgress};

/// A group of the help.
pub const DATA: &str = "Data";

/// Which data set.
#[derive(Args)]
pub struct DataArguments {
    /// A folder, zip, tar or table of images, or the files of MNIST, CIFAR-10 or Flowers 102; with --config, where that data set is
    #[arg(long, help_heading = DATA, value_name = "PATH|hf:ORG/DATASET")]
    data: Option<PathBuf>,

    /// Use the data set of this experiment [default for a run's model: the run's own]
    #[arg(long, help_heading = DATA, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Override a key of the config; may be repeated
    #[arg(long, help_heading = DATA, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
}

/// A data set that was found.
pub struct RealImages {
    pub datasets: Datasets,
    pub config: DataConfig,
    /// The experiment that names it, if there is one.
    pub experiment: Option<PathBuf>,
}

impl DataArguments {
    /// Opens the data set for images of `channels` x `side` x `side`: the data set that was named, or else the one of
    /// `model`'s run, which it reports in a line. Without a model it is the compiled-in digits.
    ///
    /// # Errors
    /// If there is no data set, or it cannot be opened.
    pub fn open(
        &self,
        model: Option<&Path>,
        hub: &HubArguments,
        [channels, side]: [usize; 2],
    ) -> anyhow::Result<RealImages> {
        let (config, experiment) = self.named(model, [channels, side])?;
        let datasets = kiln_hub::open_data_set(&config, &hub.settings(), &DataProgress::default());
        let datasets = match (&self.config, &experiment) {
            (None, Some(experiment)) => {
                let experiment = experiment.display();
                let datasets = datasets.with_context(|| {
                    format!("cannot open the images that this run was trained on (if they have moved, add `--config {experiment} --data PATH`)")
                })?;
                terminal::note(&format!(
                    "using the images that {} holds out, according to {experiment}",
                    datasets.validation.name()
                ));
                datasets
            }
            _ => datasets?,
        };
        Ok(RealImages {
            datasets,
            config,
            experiment,
        })
    }

    /// The images that `model` was trained on, of `channels` x `side` x `side`: those of the data set that was named, or of its
    /// run. No server is asked.
    ///
    /// # Errors
    /// If there is no data set, or it cannot be opened. Without a model it must be named: the one in this program saw the training
    /// images of MNIST, and the program has only others.
    pub fn training(
        &self,
        model: Option<&Path>,
        shape: [usize; 2],
    ) -> anyhow::Result<ImageDataset> {
        if model.is_none() && self.config.is_none() && self.data.is_none() {
            bail!(
                "the model inside this program has learnt from MNIST's training images, which are not in it: name them with `kiln play --config configs/mnist.toml --data FOLDER`"
            );
        }
        let (config, _) = self.named(model, shape)?;
        forbid_downloads();
        let settings = HubSettings {
            offline: true,
            ..HubSettings::from_environment()
        };
        let opened = kiln_hub::open_data_set(&config, &settings, &DataProgress::default());
        let not_at_hand =
            "the training images are not at hand: `kiln play --config FILE --data PATH` names them";
        let opened = match opened {
            // It was not the user who wanted to do without the network.
            Err(TransportError::Data(DataError::Offline { .. })) => bail!(not_at_hand),
            opened => opened.context(not_at_hand)?,
        };
        Ok(opened.train)
    }

    /// Whether what was named can be at all, before it is needed.
    ///
    /// # Errors
    /// If the config cannot be read, or there is nothing at the place of the data.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(config) = &self.config {
            Experiment::load(config, &overrides(&self.set, self.data.as_deref()))?;
        }
        if let Some(data) = &self.data {
            ensure!(
                is_on_the_hub(data) || data.exists(),
                "there is nothing at {}, which --data names",
                data.display()
            );
        }
        Ok(())
    }

    /// The data set that was named, or the one of `model`'s run, or the compiled-in digits; and the experiment that names it.
    fn named(
        &self,
        model: Option<&Path>,
        [channels, side]: [usize; 2],
    ) -> anyhow::Result<(DataConfig, Option<PathBuf>)> {
        Ok(match (&self.config, &self.data, model) {
            (Some(config), data, _) => {
                let set = overrides(&self.set, data.as_deref());
                (Experiment::load(config, &set)?.data, Some(config.clone()))
            }
            (None, Some(path), _) => {
                let config = DataConfig::new(DatasetKind::at(path)?, side, channels);
                let path = Some(path.clone());
                (DataConfig { path, ..config }, None)
            }
            (None, None, Some(model)) => {
                let (config, experiment) = of_run(model)?;
                (config, Some(experiment))
            }
            (None, None, None) => {
                let digits = DataConfig::new(DatasetKind::Mnist10k, side, channels);
                (digits, None)
            }
        })
    }
}

impl RealImages {
    /// Advice for both of its parts to have at least `fewest` images.
    pub fn way_to_more(&self, fewest: usize) -> String {
        let Datasets { train, validation } = &self.datasets;
        let all = train.len() + validation.len();
        let parted = format!("{fewest} or more each in two folders, `train` and `validation`");
        if all < 2 * fewest {
            return format!("use {} images or more, {parted}", 2 * fewest);
        }
        let is_enough = |share: &f32| {
            let held_out = held_out(all, *share);
            held_out >= fewest && all - held_out >= fewest
        };
        let share = (1..100)
            .map(|percent| percent as f32 / 100.0)
            .find(is_enough);
        // If the data has its own splits, the share does not matter.
        let is_by_share = held_out(all, self.config.validation_fraction) == validation.len();
        match (&self.experiment, share) {
            (Some(experiment), Some(share)) if is_by_share => format!(
                "`--config {} --set data.validation_fraction={share}` holds out enough; use it in training, too, because otherwise the model has seen some of them",
                experiment.display()
            ),
            _ => format!("put {parted}"),
        }
    }
}

/// The data set of `model`'s run, and the run's experiment.
fn of_run(model: &Path) -> anyhow::Result<(DataConfig, PathBuf)> {
    let Some(run) = RunRecord::folder_around(model) else {
        bail!(
            "{} is not in a run folder, so its training images are unknown: name a data set with `--config FILE` (an experiment) or `--data FOLDER`",
            model.display()
        );
    };
    Ok((RunRecord::open(&run)?.data(), run.join("config.toml")))
}

#[cfg(test)]
mod tests {
    use kiln_data::ImageShape;

    use super::*;

    fn real(train: usize, validation: usize, fraction: f32) -> RealImages {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let set = |images| ImageDataset::from_pixels("set", shape, vec![0; images], None).unwrap();
        RealImages {
            datasets: Datasets {
                train: set(train),
                validation: set(validation),
            },
            config: DataConfig {
                validation_fraction: fraction,
                ..DataConfig::new(DatasetKind::Folder, 1, 1)
            },
            experiment: Some("x.toml".into()),
        }
    }

    #[test]
    fn the_advised_share_is_enough() {
        for all in 130..2000 {
            for fraction in [0.001, 0.03, 0.999] {
                let validation = held_out(all, fraction);
                let advice = real(all - validation, validation, fraction).way_to_more(65);
                let (_, share) = advice.split_once("validation_fraction=").unwrap();
                let share: f32 = share.split('`').next().unwrap().parse().unwrap();
                let held_out = held_out(all, share);
                assert!((65..=all - 65).contains(&held_out), "{all}: {advice}");
            }
        }
    }

    #[test]
    fn images_that_are_parted_or_too_few_are_parted_by_folders() {
        for (real, words) in [
            (real(500, 20, 0.1), "put 65 or more each in two folders"),
            (
                real(100, 10, 0.1),
                "use 130 images or more, 65 or more each",
            ),
        ] {
            let advice = real.way_to_more(65);
            assert!(advice.starts_with(words), "{advice}");
        }
    }
}
