//! The family of second-order Runge-Kutta methods.

use burn::tensor::Tensor;

use super::slope::estimate;
use super::step_taken::StepTaken;
use super::turn::{part_of_the_way, turn};
use crate::{Denoiser, DiffusionError, Level, Schedule};

/// The generic second-order method: the family of Karras et al. 2022, algorithm 3, with the angle of the rates as its
/// time, because sigma is infinite where there is no signal.
///
/// From each of `levels` to the next, phi and phi' being the angles of their rates, a = cos phi and b = sin phi:
///
/// ```text
/// z_alpha = where a step of DDIM leads at phi + alpha (phi' - phi)
/// w  = how fast image and noise change, from what is estimated at z and at z_alpha
/// z' = DDIM's step + (1 - cos (phi' - phi)) w
/// ```
///
/// `alpha` = 1/2 is the midpoint method, 2/3 Ralston's, 1 Heun's. Steps to the clean image are DDIM's. `levels` lie on
/// `schedule`; `noise` and the result are `[batch, channels, height, width]`.
///
/// # Errors
/// An `alpha` outside [0.01, 1].
pub fn second_order(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    schedule: &Schedule,
    alpha: f64,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    check(alpha)?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let here = estimate(denoiser, &z, *level);
        let mut z_next = next.rates.add_noise(here.z0.clone(), here.noise.clone());
        if next.rates.noise > 0.0 {
            let between = part_of_the_way(level.rates, next.rates, alpha);
            let between = Level {
                timestep: schedule.timestep_at(between.log_snr()),
                rates: between,
            };
            let z_between = between.rates.add_noise(here.z0.clone(), here.noise.clone());
            let there = estimate(denoiser, &z_between, between);
            let rates = [level.rates, between.rates, next.rates];
            z_next = turn(z_next, &here, &there, rates);
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

/// # Errors
/// An `alpha` outside [0.01, 1].
pub(super) fn check(alpha: f64) -> Result<(), DiffusionError> {
    // A difference over a smaller part of a step would only magnify the network's rounding.
    if !(0.01..=1.0).contains(&alpha) {
        return Err(DiffusionError::Alpha(alpha));
    }
    Ok(())
}
