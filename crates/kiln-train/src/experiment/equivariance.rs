//! The equivariance of stage 1's latents.

use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require};

/// In some steps the decoder gets scaled and rotated latents and is to return the scaled and rotated image: the table
/// `[stage_1.equivariance]`, EQ-VAE (Kouzelis et al. 2025). Such latents are smoother and easier to diffuse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EquivarianceConfig {
    /// The share of steps with a change, from 0 to 1; default 0.5.
    pub probability: f64,
    /// The smallest scale, above 0 and at most 1; default 0.25. Scales are uniform from here to 1, and 1 keeps the size.
    pub smallest_scale: f64,
    /// Whether they are rotated by 0, 90, 180 or 270 degrees; default true.
    pub rotation: bool,
}

impl Default for EquivarianceConfig {
    fn default() -> Self {
        Self {
            probability: 0.5,
            smallest_scale: 0.25,
            rotation: true,
        }
    }
}

impl EquivarianceConfig {
    pub(super) fn validate(&self) -> Result<(), ExperimentError> {
        let (probability, scale) = (self.probability, self.smallest_scale);
        let key = "stage_1.equivariance.probability";
        require((0.0..=1.0).contains(&probability), key, probability, || {
            "it must lie between 0 and 1, such as 0.5".into()
        })?;
        let key = "stage_1.equivariance.smallest_scale";
        require(scale > 0.0 && scale <= 1.0, key, scale, || {
            "it must lie above 0 and at most at 1, such as 0.25".into()
        })
    }

    /// The number of latents along a side of `latents` at this scale.
    pub(crate) fn scaled(latents: usize, scale: f64) -> usize {
        ((scale * latents as f64).round() as usize).max(1)
    }
}
