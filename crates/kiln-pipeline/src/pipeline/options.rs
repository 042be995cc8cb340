//! The options of drawing.

use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Clip, Guidance, LevelOptions};
use kiln_kernels::Precision;

/// The options of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Denoising steps, from 1 to the schedule's number of timesteps.
    pub steps: usize,
    /// The sampler.
    pub sampler: Sampler,
    /// The choice of timesteps, and the end of the walk.
    pub levels: LevelOptions,
    /// The timesteps to visit, from the noisiest down, instead of those that `levels` choose; as many as `steps`. See
    /// [`Self::at_timesteps`].
    pub timesteps: Option<Vec<f64>>,
    /// The clipping of predicted clean latents.
    pub clip: Option<Clip>,
    /// The number of images, per class if there are classes.
    pub count: usize,
    /// The number of the first image under the seed, 0 by default: several programs can share a drawing.
    pub first: u64,
    /// The seed of the noise: image i of a seed is always the same for the same class.
    pub seed: u64,
    /// The classes to draw, for a conditional model. An empty list draws from the null class, images in general.
    pub classes: Vec<usize>,
    /// The extrapolation beyond the model's guide or, without a guide, beyond the null class.
    pub guidance: Guidance,
    /// The number of images that are denoised together. It affects memory and speed, but not the images.
    pub batch: usize,
    /// The type of numbers that the convolutions multiply. The default, `Auto`, is bf16 on a processor that is made for it, and
    /// f32 elsewhere.
    pub precision: Precision,
}

impl SampleOptions {
    /// With these timesteps to visit, from the noisiest down, and as many steps.
    pub fn at_timesteps(self, timesteps: Vec<f64>) -> Self {
        Self {
            steps: timesteps.len(),
            timesteps: Some(timesteps),
            ..self
        }
    }

    /// The number of all images: `count` of each class, or `count` if there are no classes.
    pub fn images(&self) -> usize {
        self.count.saturating_mul(self.classes.len().max(1))
    }

    /// The network calls per image, to which the time of sampling is proportional. Guidance doubles them.
    pub fn calls(&self) -> usize {
        let calls = self.sampler.calls(self.steps);
        let is_guided = self.guidance.scale() != 1.0;
        if is_guided { 2 * calls } else { calls }
    }

    /// The classes, or a single `None` if there are none.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let classes = match self.classes.as_slice() {
            [] => vec![None],
            classes => classes.iter().copied().map(Some).collect(),
        };
        classes.into_iter()
    }
}
