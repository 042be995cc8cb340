//! The family of second-order Runge-Kutta methods.

use burn::tensor::Tensor;

use super::{Progress, Sampler, estimate, straight};
use crate::{Denoised, Denoiser, DiffusionError, Level, Schedule};

/// The generic second-order method (the family of Karras et al. 2022, algorithm 3, with timesteps
/// for its time).
///
/// From each of `levels` to the next, whose timesteps are t and t':
///
/// ```text
/// noise_alpha = the noise estimated at t + alpha (t' - t), where a step of DDIM leads to
/// x' = x + (sigma' - sigma) ((1 - 1 / (2 alpha)) noise + 1 / (2 alpha) noise_alpha)
/// ```
///
/// `alpha` = 1/2 is the midpoint method, 2/3 Ralston's, 1 Heun's. Steps to the clean image and from
/// pure noise are DDIM's. `schedule` is the one that `levels` lie on; `noise` and the result are
/// `[batch, channels, height, width]`.
///
/// # Errors
/// An `alpha` outside (0, 1].
pub fn second_order(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    schedule: &Schedule,
    alpha: f64,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    Sampler::SecondOrder { alpha }.validate()?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let Denoised { z0, noise } = estimate(denoiser, &z, *level);
        z = if next.rates.noise > 0.0 && level.rates.signal > 0.0 {
            let between = level.timestep + alpha * (next.timestep - level.timestep);
            let between = schedule.level(between);
            let z_between = between.rates.add_noise(z0.clone(), noise.clone());
            let noise_between = estimate(denoiser, &z_between, between).noise;
            let weight = 1.0 / (2.0 * alpha);
            let mean = noise * (1.0 - weight) + noise_between * weight;
            straight(z, mean, level.rates, next.rates)
        } else {
            next.rates.add_noise(z0.clone(), noise)
        };
        observe(Progress {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}
