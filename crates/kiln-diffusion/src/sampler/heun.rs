//! Heun's method, after the design of Karras et al.

use burn::tensor::Tensor;

use super::churn::Churn;
use super::slope::estimate;
use super::step_taken::StepTaken;
use super::turn::heuns_step;
use crate::{Denoiser, DiffusionError, Level, Schedule};

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
/// Steps to the clean image, where d' is 0 / 0, end at the third line. If the signal rate more than triples in a step,
/// as it does from (almost) pure noise, the last line adds more error than it removes. Such a step is the second-order
/// step by the angle between the levels, which agrees with Heun's for small steps. `levels` lie on `schedule`; `noise`
/// and the result are `[batch, channels, height, width]`.
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
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    churn.validate()?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level_before, next]) in (1..).zip(levels.array_windows()) {
        let level;
        (z, level) = churn.begin(z, *level_before, steps, schedule, || fresh_noise(step));
        let here = estimate(denoiser, &z, level);
        let mut z_next = next.rates.add_noise(here.z0.clone(), here.noise.clone());
        if next.rates.noise > 0.0 {
            let there = estimate(denoiser, &z_next, *next);
            z_next = heuns_step(z, z_next, &here, there, [level.rates, next.rates]);
        }
        z = z_next;
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &here.z0,
        });
    }
    Ok(z)
}
