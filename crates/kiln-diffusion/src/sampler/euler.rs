//! Euler's method, after the design of Karras et al.

use burn::tensor::Tensor;

use super::churn::Churn;
use super::slope::estimate;
use super::step_taken::StepTaken;
use crate::{Denoised, Denoiser, DiffusionError, Level, Schedule};

/// Euler's method with churn (Karras et al. 2022, algorithm 2 without lines 6 to 8).
///
/// With x = z / a and sigma = b / a, from each of `levels` to the next:
///
/// ```text
/// x^, sigma^ = x and sigma with more noise, by `churn`
/// x' = x^ + (sigma' - sigma^) (x^ - z0) / sigma^,    which is  z' = a' z0 + b' (z^ - a^ z0) / b^
/// ```
///
/// Without churn this is DDIM with `eta` = 0. `levels` lie on `schedule`; `noise` and the result are
/// `[batch, channels, height, width]`.
///
/// # Errors
/// A setting of `churn` out of its range.
pub fn euler(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    schedule: &Schedule,
    churn: Churn,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    churn.validate()?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level_before, next]) in (1..).zip(levels.array_windows()) {
        let level;
        (z, level) = churn.begin(z, *level_before, steps, schedule, || fresh_noise(step));
        let Denoised { z0, noise } = estimate(denoiser, &z, level);
        z = next.rates.add_noise(z0.clone(), noise);
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}
