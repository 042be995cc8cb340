//! What a walk tells on its way.

use burn::tensor::Tensor;

/// What a sampler reports after each step, for progress bars and for pictures of the denoising.
#[derive(Debug, Clone, Copy)]
pub struct StepTaken<'a> {
    /// The step just taken, from 1 to `steps`.
    pub step: usize,
    /// How many steps there are.
    pub steps: usize,
    /// The images after the step, with the noise of the next level `[batch, channels, height,
    /// width]`.
    pub z: &'a Tensor<4>,
    /// The denoiser's estimate of the clean images at the beginning of the step `[batch, channels,
    /// height, width]`.
    pub z0: &'a Tensor<4>,
}
