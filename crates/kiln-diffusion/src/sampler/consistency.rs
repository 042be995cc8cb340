//! Multistep consistency sampling: for networks that were distilled to reach the clean image in one call.

use burn::tensor::Tensor;

use super::step_taken::StepTaken;
use crate::{Denoiser, Level};

/// Multistep consistency sampling (Song et al. 2023, algorithm 1; latent consistency models, Luo et al. 2023).
///
/// From each of `levels` to the next, with the rates a' and b' there:
///
/// ```text
/// z' = a' z0 + b' fresh_noise
/// ```
///
/// Each step takes the denoiser's clean image as it is, and forgets the noise that it came from. That is right for a
/// network that was distilled for it, whose clean image is a whole sample. The clean image of any other network is the
/// mean of all possible ones, and the result is blurred. diffusers' `LCMScheduler` does the same. `noise` and the result
/// are `[batch, channels, height, width]`.
pub fn consistency(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let z0 = denoiser.denoise(z, *level).z0;
        z = match next.rates.noise > 0.0 {
            true => next.rates.add_noise(z0.clone(), fresh_noise(step)),
            false => z0.clone(),
        };
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    z
}
