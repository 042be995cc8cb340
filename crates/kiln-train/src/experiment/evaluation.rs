//! `[stage_2.evaluation]`: measurements of drawn images during training.

use std::path::PathBuf;

use kiln_eval::{FeatureKind, Inception};
use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require};
use super::interval::Interval;
use super::training::TrainingConfig;

/// Distances between drawn and held-out images, logged during training.
///
/// The number of held-out images is the one of the validation (`validation_images`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationConfig {
    /// The features to compare: `digits` logs `frechet`, `kernel` and `confident`, InceptionV3's `2048`, `768` and `6c`
    /// log `fid` and `kid`.
    pub features: FeatureKind,
    /// The number of checkpoints from one measurement to the next, or passes, rounded to the nearest checkpoint.
    #[serde(default = "default_every")]
    pub every: Interval,
    /// The number of images for one measurement, drawn as `[sampling]` says.
    #[serde(default = "default_images")]
    pub images: usize,
    /// The feature network's weights. If absent: the built-in classifier's, or pytorch-fid's, which are downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_weights: Option<PathBuf>,
    /// Side that images are resized to for InceptionV3: 299 as in pytorch-fid, 75 as in the Keras examples.
    #[serde(default = "default_feature_size")]
    pub feature_size: usize,
    /// The figure that chooses the best checkpoint. That one stays on disk beside the newest.
    #[serde(default)]
    pub best_by: Best,
}

/// The figure that is smallest at the best checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Best {
    /// The validation loss.
    #[default]
    Loss,
    /// The Frechet distance; `fid` with InceptionV3's features.
    #[serde(alias = "fid")]
    Frechet,
    /// The kernel distance; `kid` with InceptionV3's features.
    #[serde(alias = "kid")]
    Kernel,
}

fn default_every() -> Interval {
    Interval::Every(5)
}
fn default_images() -> usize {
    1000
}
fn default_feature_size() -> usize {
    Inception::PYTORCH_FID_SIDE
}

impl EvaluationConfig {
    pub(super) fn validate(&self, training: &TrainingConfig) -> Result<(), ExperimentError> {
        require(
            self.every.is_positive(),
            "stage_2.evaluation.every",
            self.every,
            || "it must be at least 1; leave the table out for no measurements".into(),
        )?;
        let valid = 2..=100_000;
        require(
            valid.contains(&self.images),
            "stage_2.evaluation.images",
            self.images,
            || "distances need from 2 to 100,000 images, better hundreds".into(),
        )?;
        let held_out = training.validation_images;
        require(
            held_out != 1,
            "stage_2.training.validation_images",
            held_out,
            || "distances need at least 2 held-out images".into(),
        )?;
        let sides = Inception::SMALLEST_SIDE..=1024;
        let side = self.feature_size;
        require(
            sides.contains(&side),
            "stage_2.evaluation.feature_size",
            side,
            || {
                format!(
                    "InceptionV3 reads images with a side from {} to {}",
                    sides.start(),
                    sides.end()
                )
            },
        )
    }
}
