//! The TOML file of a classifier's training.

use std::path::Path;

use kiln_data::DataConfig;
use kiln_eval::{DigitClassifier, ResidualConfig};
use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require, within};
use super::file::{parse_table, read, remember, written};
use super::refusal::Described;
use super::training::TrainingConfig;

/// The training of a [`DigitClassifier`] or an [`ImageClassifier`](kiln_eval::ImageClassifier), as its TOML file
/// describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierExperiment {
    /// Seeds the initial weights, the order of the images and their distortion.
    #[serde(default)]
    pub seed: u64,
    /// As [`super::Experiment::overrides`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// The training data, with labels: gray images of 28x28 for the digit classifier, any for the other one.
    pub data: DataConfig,
    /// The sizes of an [`ImageClassifier`](kiln_eval::ImageClassifier); without this table, the digit classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ResidualConfig>,
    /// The distortion of training images.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
}

/// The random distortion of training images, each time that one is shown: the standard deviations of normal
/// distributions, but for the cutout. `data.horizontal_flip` mirrors images, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// The shift along each axis, in pixels.
    pub shift: f64,
    /// The rotation, in degrees.
    pub rotation: f64,
    /// The change of size along each axis, as a share of the size.
    pub scale: f64,
    /// The change of brightness, of contrast and of the strength of colours, each as a share of its full range.
    pub colour: f64,
    /// The side of a gray square that hides a part of the image (DeVries and Taylor 2017), as a share of the image's.
    pub cutout: f64,
}

impl ClassifierExperiment {
    /// Reads the TOML file at `path`, applies `overrides` as [`super::Experiment::load`] does, and checks every value.
    ///
    /// # Errors
    /// [`ExperimentError`] with the key, its value and what would be valid.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ExperimentError> {
        Self::parse(&read(path)?, &path.display().to_string(), overrides)
    }

    /// Like [`Self::load`], from text; `origin` names it in errors.
    ///
    /// # Errors
    /// The errors of [`Self::load`].
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ExperimentError> {
        let mut experiment: Self = parse_table(
            text,
            origin,
            overrides,
            Described::Classifier,
            &toml::Table::new(),
        )?;
        remember(&mut experiment.overrides, overrides);
        experiment.validate()?;
        Ok(experiment)
    }

    /// The experiment as TOML, as in `config.toml` of a run folder.
    ///
    /// # Errors
    /// [`ExperimentError::Parse`] for a number that TOML cannot represent.
    pub fn to_toml(&self) -> Result<String, ExperimentError> {
        written(self)
    }

    fn validate(&self) -> Result<(), ExperimentError> {
        within("data", self.data.validate())?;
        self.training.validate("training")?;
        match &self.classifier {
            None => self.check_digits()?,
            Some(network) => {
                if let Some((key, value, valid)) = network.problem() {
                    require(false, format!("classifier.{key}"), value, || valid)?;
                }
            }
        }
        self.augmentation.validate()
    }

    fn check_digits(&self) -> Result<(), ExperimentError> {
        let (size, side) = (self.data.size, DigitClassifier::SIDE);
        require(size == side, "data.size", size, || {
            format!(
                "the classifier reads digits of {side}x{side} pixels; a table [classifier] chooses a network for other images"
            )
        })?;
        let channels = self.data.channels;
        require(channels == 1, "data.channels", channels, || {
            "the digit classifier reads gray images, of 1 channel; a table [classifier] chooses a network for other images".to_owned()
        })
    }
}

impl Augmentation {
    fn validate(&self) -> Result<(), ExperimentError> {
        let Self {
            shift,
            rotation,
            scale,
            colour,
            cutout,
        } = *self;
        for (key, value) in [
            ("shift", shift),
            ("rotation", rotation),
            ("scale", scale),
            ("colour", colour),
        ] {
            let key = format!("augmentation.{key}");
            require(value >= 0.0 && value.is_finite(), key, value, || {
                "it is a standard deviation, 0 or more".to_owned()
            })?;
        }
        let is_share = (0.0..1.0).contains(&cutout);
        require(is_share, "augmentation.cutout", cutout, || {
            "it is a share of the image's side, 0 or more and below 1".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(overrides: &[&str]) -> Result<ClassifierExperiment, ExperimentError> {
        let text = include_str!("../../../../configs/mnist-classifier.toml");
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        ClassifierExperiment::parse(text, "mnist-classifier", &overrides)
    }

    #[test]
    fn the_config_that_ships_is_valid_and_survives_toml() {
        let experiment = parse(&[]).unwrap();
        let text = experiment.to_toml().unwrap();
        let again = ClassifierExperiment::parse(&text, "again", &[]).unwrap();
        assert_eq!(again.augmentation, experiment.augmentation);
        assert_eq!(again.data, experiment.data);
    }

    #[test]
    fn a_table_chooses_the_network_for_any_images() {
        assert_eq!(parse(&[]).unwrap().classifier, None);
        let colour = [
            "data.size=40",
            "data.channels=3",
            "classifier.layers_per_block=2",
        ];
        let network = parse(&colour).unwrap().classifier.unwrap();
        let expected = ResidualConfig {
            layers_per_block: 2,
            ..ResidualConfig::default()
        };
        assert_eq!(network, expected);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        for (text, key) in [
            ("data.size=32", "data.size"),
            ("data.channels=3", "data.channels"),
            ("augmentation.scale=-1", "augmentation.scale"),
            ("augmentation.shift=nan", "augmentation.shift"),
            ("augmentation.blur=1", "blur"),
            ("augmentation.cutout=1", "augmentation.cutout"),
            ("augmentation.colour=-0.1", "augmentation.colour"),
            (
                "classifier.layers_per_block=0",
                "classifier.layers_per_block",
            ),
            ("classifier.block_out_channels=[12]", "norm_num_groups = 8"),
            ("classifier.widths=[8]", "block_out_channels"),
            ("training.batch_size=0", "training.batch_size"),
            ("steps=3", "did you mean `training.steps`?"),
            (
                "codebook.decay=0.9",
                "`codebook` belongs in an experiment of a VQ-VAE",
            ),
            ("augmentation=1", "[augmentation]"),
        ] {
            let sentence = parse(&[text]).unwrap_err().to_string();
            assert!(sentence.contains(key), "{text}: {sentence}");
        }
    }
}
