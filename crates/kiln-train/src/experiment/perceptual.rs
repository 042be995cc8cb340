//! The perceptual term of stage 1.

use std::path::PathBuf;

use kiln_eval::PerceptualKind;
use serde::{Deserialize, Serialize};

use super::experiment_error::ExperimentError;
use super::term_weight::TermWeight;

/// The distance between the features of images and of their reconstructions: the table `[stage_1.perceptual]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualConfig {
    /// The weight of the distance.
    pub weight: TermWeight,
    /// The frozen network that sees the features.
    pub network: PerceptualKind,
    /// The file of its weights: torchvision's for LPIPS, which are downloaded if this is absent, and for `classifier`
    /// the `model.safetensors` of `kiln train-classifier`, which it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

impl PerceptualConfig {
    pub(super) fn validate(&self) -> Result<(), ExperimentError> {
        self.weight.validate("stage_1.perceptual.weight")
    }
}
