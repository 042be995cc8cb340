//! How an experiment's pictures are drawn.

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Clip, Spacing};
use serde::{Deserialize, Serialize};

use super::sampler;

/// How pictures are drawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Denoising steps of the pictures drawn while training.
    pub steps: usize,
    /// Images in such a picture. With classes each has a row, of as many whole columns as this allows, at least one.
    pub count: usize,
    /// How to walk from noise to image: a name, or a table with the sampler's settings.
    #[serde(deserialize_with = "sampler::by_name_or_table")]
    pub sampler: Sampler,
    /// Which of the schedule's timesteps are visited.
    pub spacing: Spacing,
    /// How predicted clean latents or, in pixel space, images are kept in their range: a number (1 for pixels), or
    /// dynamic thresholding; absent: not at all.
    pub clip: Option<Clip>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            steps: 50,
            count: 64,
            sampler: Sampler::default(),
            spacing: Spacing::Trailing,
            clip: None,
        }
    }
}
