//! How to draw.

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Clip, Guidance, LevelOptions};
use kiln_kernels::Precision;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Denoising steps, from 1 to the schedule's number of timesteps.
    pub steps: usize,
    /// How to walk from noise to image.
    pub sampler: Sampler,
    /// Which timesteps are visited, and where the walk ends.
    pub levels: LevelOptions,
    /// How predicted clean latents are kept in their range.
    pub clip: Option<Clip>,
    /// Number of images, of each class if there are classes.
    pub count: usize,
    /// Which noise to start from: image i of a seed is always the same for the same class.
    pub seed: u64,
    /// The classes to draw, for a conditional model. None at all draws from the null class, of images in general.
    pub classes: Vec<usize>,
    /// How far to go beyond what the model's guide says, or, of a model without one, what the null class does.
    pub guidance: Guidance,
    /// Images that are denoised together: memory and speed, not the images, depend on it.
    pub batch: usize,
    /// Which numbers the convolutions multiply; `bf16` is for the CPU.
    pub precision: Precision,
}

impl SampleOptions {
    /// Images in all: `count` of each class, or `count` where there are no classes.
    pub fn images(&self) -> usize {
        self.count.saturating_mul(self.classes.len().max(1))
    }

    /// The classes, or no class at all.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let classes = match self.classes.as_slice() {
            [] => vec![None],
            classes => classes.iter().copied().map(Some).collect(),
        };
        classes.into_iter()
    }
}
