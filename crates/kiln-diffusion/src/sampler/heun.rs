//! Heun's method, after the design of Karras et al.

use burn::tensor::Tensor;

use super::{Churn, Progress, estimate, straight};
use crate::{Denoised, Denoiser, DiffusionError, Level, Schedule};

/// Heun's method with churn (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
/// Generative Models", algorithm 2).
///
/// With x = z / a and sigma = b / a, from each of `levels` to the next:
///
/// ```text
/// x^, sigma^ = x and sigma with more noise, by `churn`
/// d  = (x^ - z0) / sigma^
/// x' = x^ + (sigma' - sigma^) d
/// d' = (x' - z0') / sigma'
/// x' = x^ + (sigma' - sigma^) (d + d') / 2
/// ```
///
/// Steps to the clean image, where d' is 0 / 0, and from pure noise, where sigma is infinite, end
/// at the third line. `schedule` is the one that `levels` lie on; `noise` and the result are
/// `[batch, channels, height, width]`.
///
/// # Errors
/// A setting of `churn` out of its range.
pub fn heun(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    schedule: &Schedule,
    churn: Churn,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    churn.validate()?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level_before, next]) in (1..).zip(levels.array_windows()) {
        let level;
        (z, level) = churn.begin(z, *level_before, steps, schedule, || fresh_noise(step));
        let Denoised { z0, noise } = estimate(denoiser, &z, level);
        let mut z_next = next.rates.add_noise(z0.clone(), noise.clone());
        if next.rates.noise > 0.0 && level.rates.signal > 0.0 {
            let noise_next = estimate(denoiser, &z_next, *next).noise;
            z_next = straight(z, (noise + noise_next) / 2.0, level.rates, next.rates);
        }
        z = z_next;
        observe(Progress {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}
