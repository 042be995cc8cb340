//! DDIM run backwards: from an image to the noise that gives it.

use burn::tensor::Tensor;

use super::step_taken::StepTaken;
use crate::{Denoiser, Level};

/// Encodes `images` into the noise from which [`ddim`](super::ddim()) with `eta` = 0 draws them, on the same `levels`
/// (Song, Meng and Ermon 2021, section 4.3).
///
/// DDIM's step from z, at rates a and b, to the less noisy z' is z' = a' z0 + b' noise. Solved for z, with
/// z0 = (z - b noise) / a:
///
/// ```text
/// z = (a / a') z' + (b - b' a / a') noise(z)
/// ```
///
/// This needs the noise at the unknown z. The plain algorithm takes it at z' instead, which is right for small steps.
/// Each of the `refinements` takes it at the last result: a fixed-point iteration (Pan et al. 2023), which each time
/// multiplies the error by about 1 - (a b') / (a' b) and costs one more call of the denoiser per step.
///
/// `levels` begin with the noisiest, as for the samplers; `images` `[batch, channels, height, width]` are at the last
/// one and the result at the first. If the last level is clean, its step has no exact inverse, because the step's z0
/// does not depend on all of z. The result then gives a denoised version of the image.
///
/// A denoiser that clips z0 discards information that inversion needs: clip only when sampling.
pub fn invert(
    denoiser: &dyn Denoiser,
    images: Tensor<4>,
    levels: &[Level],
    refinements: usize,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = images;
    let upwards = levels.iter().rev();
    for (step, (level, noisier)) in (1..).zip(upwards.clone().zip(upwards.skip(1))) {
        // The less noisy level is the known one here.
        let (a_known, b_known) = (level.rates.signal, level.rates.noise);
        let (a, b) = (noisier.rates.signal, noisier.rates.noise);
        let of_z = a / a_known;
        let of_noise = b - b_known * of_z;

        let mut denoised = denoiser.denoise(z.clone(), *noisier);
        for _ in 0..refinements {
            let guess = z.clone() * of_z + denoised.noise * of_noise;
            denoised = denoiser.denoise(guess, *noisier);
        }
        z = z * of_z + denoised.noise * of_noise;
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &denoised.z0,
        });
    }
    z
}
