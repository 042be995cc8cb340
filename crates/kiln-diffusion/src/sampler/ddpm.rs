//! DDPM: ancestral sampling, one random step of the reversed diffusion after the other.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::step_taken::StepTaken;
use crate::{Denoised, Denoiser, Level, Rates};

/// How much noise a DDPM step adds: the two extremes (Ho et al. 2020, section 3.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Variance {
    /// The variance of the posterior given z0, beta b'² / b² (diffusers' `fixed_small`): right if
    /// the data were one point.
    #[default]
    Small,
    /// beta itself (diffusers' `fixed_large`): right if the data were standard normal.
    Large,
}

/// Denoising diffusion probabilistic models (Ho, Jain and Abbeel 2020, algorithm 2 with the
/// posterior mean of eq. 7).
///
/// From each of `levels` to the next, with rates a, b and a', b', so that a step over several
/// timesteps has the alpha and beta of all of them together:
///
/// ```text
/// alpha = (a / a')²,  beta = 1 - alpha
/// mean  = (a' beta z0 + sqrt(alpha) b'² z) / b²
/// z'    = mean + sqrt(variance) fresh_noise
/// ```
///
/// As in algorithm 2, the last step adds no noise. (diffusers' `fixed_large` does add some when the
/// last visited timestep is not 0.) `noise` and the result are `[batch, channels, height, width]`.
pub fn ddpm(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    variance: Variance,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, (level, next)) in (1..).zip(levels.iter().zip(levels.iter().skip(1))) {
        let Denoised { z0, .. } = denoiser.denoise(z.clone(), *level);
        let mean = PosteriorMean::between(level.rates, next.rates);

        z = z0.clone() * mean.of_z0 + z * mean.of_zt;
        if step < steps {
            z = z + fresh_noise(step) * step_variance(level.rates, next.rates, variance).sqrt();
        }
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    z
}

/// The mean of what a noisy image was at a level with less noise, given the clean image: `of_z0 z0 + of_zt z`
/// (Ho et al. 2020, eq. 7).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PosteriorMean {
    /// a' beta / b²
    pub of_z0: f64,
    /// sqrt(alpha) b'² / b²
    pub of_zt: f64,
}

impl PosteriorMean {
    /// Of the way from `rates` to `next`, as in [`ddpm`].
    pub fn between(rates: Rates, next: Rates) -> Self {
        let alpha = (rates.signal / next.signal).powi(2);
        let b = rates.noise;
        Self {
            of_z0: next.signal * (1.0 - alpha) / (b * b),
            of_zt: alpha.sqrt() * next.noise * next.noise / (b * b),
        }
    }
}

/// The variance that a step of [`ddpm`] from `rates` to the less noisy `next` adds.
pub fn step_variance(rates: Rates, next: Rates, variance: Variance) -> f64 {
    let beta = (1.0 - (rates.signal / next.signal).powi(2)).max(0.0);
    match variance {
        Variance::Small => beta * (next.noise / rates.noise).powi(2),
        Variance::Large => beta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Schedule, ScheduleConfig};

    /// From diffusers' own tests: `test_variance` of its DDPM and DDIM schedulers, betas 1e-4..0.02
    /// over 1000 timesteps.
    #[test]
    fn the_variances_are_those_of_diffusers() {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        let small = |from: f64, to: f64| {
            step_variance(schedule.rates(from), schedule.rates(to), Variance::Small)
        };
        for (from, to, expected) in [
            (487.0, 486.0, 0.00979),
            (999.0, 998.0, 0.02),
            (420.0, 400.0, 0.14771),
            (980.0, 960.0, 0.32460),
        ] {
            assert!(
                (small(from, to) - expected).abs() < 1e-5,
                "{from}: {}",
                small(from, to)
            );
        }
        let large = step_variance(
            schedule.rates(999.0),
            schedule.rates(998.0),
            Variance::Large,
        );
        assert!((large - 0.02).abs() < 1e-12);
    }
}
