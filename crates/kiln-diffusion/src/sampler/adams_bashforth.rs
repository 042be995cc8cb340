//! Adams and Bashforth's multistep methods.

use burn::tensor::Tensor;

use super::slope::{estimate, straight};
use super::step_taken::StepTaken;
use crate::{Denoised, Denoiser, DiffusionError, Level};

/// Adams-Bashforth methods on the noise, of order 1 (DDIM with `eta` = 0) to 5.
///
/// From each of `levels` to the next, a polynomial extrapolates the noises that the last `order` steps estimated:
///
/// ```text
/// x' = x + (sigma' - sigma) (3 noise - noise_before) / 2        (order 2)
/// ```
///
/// The first steps have fewer earlier noises, so their order is lower. The weights assume equal steps of sigma = b / a.
/// So from `order` 2 on the error falls with the second power of the step; higher orders make it smaller where sigma is
/// nearly even, but make large steps unstable. `noise` and the result are `[batch, channels, height, width]`.
///
/// # Errors
/// An `order` other than 1 to 5.
pub fn adams_bashforth(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    order: usize,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    check(order)?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    // Newest first.
    let mut earlier: Vec<Tensor<4>> = Vec::new();
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let Denoised { z0, noise } = estimate(denoiser, &z, *level);
        z = if earlier.is_empty() {
            next.rates.add_noise(z0.clone(), noise.clone())
        } else {
            let mean = mean_over_step(&noise, &earlier);
            straight(z, mean, level.rates, next.rates)
        };
        earlier.insert(0, noise);
        earlier.truncate(order - 1);
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}

/// The mean over the coming step of the polynomial through `noise` and the up to four `earlier` ones, newest first.
pub(super) fn mean_over_step(noise: &Tensor<4>, earlier: &[Tensor<4>]) -> Tensor<4> {
    let (denominator, newest, weights): (f64, f64, &[f64]) = match earlier.len() {
        0 => (1.0, 1.0, &[]),
        1 => (2.0, 3.0, &[-1.0]),
        2 => (12.0, 23.0, &[-16.0, 5.0]),
        3 => (24.0, 55.0, &[-59.0, 37.0, -9.0]),
        _ => (720.0, 1901.0, &[-2774.0, 2616.0, -1274.0, 251.0]),
    };
    let weighted = (earlier.iter().zip(weights))
        .fold(noise.clone() * newest, |sum, (noise, weight)| {
            sum + noise.clone() * *weight
        });
    weighted / denominator
}

/// # Errors
/// An `order` that is not 1 to 5.
pub(super) fn check(order: usize) -> Result<(), DiffusionError> {
    if !(1..=5).contains(&order) {
        return Err(DiffusionError::Order(order));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// The mean over [0, 1] of t^k is 1 / (k + 1), and `order` estimates at 0, -1, -2 .. determine the powers below
    /// `order` exactly.
    #[test]
    fn polynomials_are_extrapolated_exactly() {
        for order in 1..=5 {
            for power in 0..order {
                let value = |t: i32| f64::from(t).powi(power);
                let noise = |t| Tensor::<4>::full([1, 1, 1, 1], value(t), &Device::flex());
                let earlier: Vec<_> = (1..order).map(|t| noise(-t)).collect();
                let mean = mean_over_step(&noise(0), &earlier).into_scalar::<f32>();
                let exact = 1.0 / f64::from(power + 1);
                assert!(
                    (f64::from(mean) - exact).abs() < 1e-4,
                    "{order} {power}: {mean}"
                );
            }
        }
    }
}
