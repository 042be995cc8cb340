//! How an experiment's pictures are drawn.

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Clip, Spacing};
use serde::{Deserialize, Serialize};

use super::sampler;

/// The drawing of pictures.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Denoising steps of the pictures drawn during training.
    pub steps: usize,
    /// Images in such a picture. With classes each class has a row, and the number of columns is rounded down, but at
    /// least one.
    pub count: usize,
    /// The sampler: a name, or a table with the sampler's settings.
    #[serde(deserialize_with = "sampler::by_name_or_table")]
    pub sampler: Sampler,
    /// The choice of timesteps that the sampler visits.
    pub spacing: Spacing,
    /// The clipping of predicted clean latents or, in pixel space, images: a number (1 for pixels), or dynamic
    /// thresholding. If absent: no clipping.
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
