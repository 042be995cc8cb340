//! Betas along a curve between two given ones, the share of the variance that each timestep replaces by noise:
//! `alpha_bar = (1 - beta_0) (1 - beta_1) ..`.
//!
//! Read continuously, betas are a rate, and -ln alpha_bar is their integral (Song et al. 2021, eq. 11 and 33). They run
//! from one end of their range to the other while t goes from 0 to 1, which takes T timesteps.

use serde::{Deserialize, Serialize};

use super::sigmoid::{sigmoid, softplus};
use super::time::Time;
use crate::linspace::linspace;
use crate::{DiffusionError, Rates};

/// The number of timesteps for which the usual ranges were chosen.
const REFERENCE_TIMESTEPS: f64 = 1000.0;

/// `sigmoid-betas` follow a sigmoid from minus this to this.
const SIGMOID_REACH: f64 = 6.0;

/// The first and the last beta.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BetaRange {
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// Multiplies the betas by 1000 / T, so that a range chosen for T = 1000 ends in as much noise with any other T.
    pub scale_betas: bool,
}

impl BetaRange {
    /// The range of DDPM and diffusers.
    pub const DEFAULT: Self = Self {
        beta_start: 1e-4,
        beta_end: 0.02,
        scale_betas: false,
    };

    pub(super) fn validate(&self, timesteps: usize) -> Result<(), DiffusionError> {
        let (start, end) = self.scaled(timesteps);
        // Comparisons are false for NaN.
        if start > 0.0 && start <= end && end < 1.0 {
            return Ok(());
        }
        let after_scaling = if self.scale_betas {
            " (times 1000 / T by `scale_betas`)"
        } else {
            ""
        };
        Err(DiffusionError::BetaRange {
            start,
            end,
            after_scaling,
        })
    }

    /// `beta_start` and `beta_end` after `scale_betas`.
    pub(crate) fn scaled(&self, timesteps: usize) -> (f64, f64) {
        let scale = if self.scale_betas {
            REFERENCE_TIMESTEPS / timesteps as f64
        } else {
            1.0
        };
        (self.beta_start * scale, self.beta_end * scale)
    }

    /// `linear`: betas in equal steps.
    pub(super) fn linear(&self, timesteps: usize) -> Vec<f64> {
        let (start, end) = self.scaled(timesteps);
        linspace(start, end, timesteps).collect()
    }

    /// The continuous curve of [`Self::linear`].
    pub(super) fn linear_curve(&self, time: Time) -> Rates {
        let (start, end) = self.scaled(time.timesteps);
        let t = time.since_clean();
        after(start * t + (end - start) * t * t / 2.0, time)
    }

    /// `scaled-linear`: equal steps between the square roots, then squared.
    pub(super) fn scaled_linear(&self, timesteps: usize) -> Vec<f64> {
        let (start, end) = self.scaled(timesteps);
        let roots = linspace(start.sqrt(), end.sqrt(), timesteps);
        roots.map(|root| root * root).collect()
    }

    /// The continuous curve of [`Self::scaled_linear`]: the square of r + t (s - r), r and s being the roots.
    pub(super) fn scaled_linear_curve(&self, time: Time) -> Rates {
        let (start, end) = self.scaled(time.timesteps);
        let t = time.since_clean();
        let (root, rise) = (start.sqrt(), end.sqrt() - start.sqrt());
        let integral = root * root * t + root * rise * t.powi(2) + rise.powi(2) * t.powi(3) / 3.0;
        after(integral, time)
    }

    /// `sigmoid-betas`: along a sigmoid.
    pub(super) fn along_sigmoid(&self, timesteps: usize) -> Vec<f64> {
        let (start, end) = self.scaled(timesteps);
        linspace(-SIGMOID_REACH, SIGMOID_REACH, timesteps)
            .map(|x| start + (end - start) * sigmoid(x))
            .collect()
    }

    /// The continuous curve of [`Self::along_sigmoid`]: the integral of a sigmoid is ln(1 + e^x).
    pub(super) fn along_sigmoid_curve(&self, time: Time) -> Rates {
        let (start, end) = self.scaled(time.timesteps);
        let t = time.since_clean();
        let (from, length) = (-SIGMOID_REACH, 2.0 * SIGMOID_REACH);
        let area = softplus(from + length * t) - softplus(from);
        after(start * t + (end - start) * area / length, time)
    }
}

impl Default for BetaRange {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The rates at which the betas, a rate over t, have this integral.
fn after(integral: f64, time: Time) -> Rates {
    Rates::from_log_signal_power(-(integral * time.timesteps as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn betas_run_from_the_first_to_the_last() {
        let range = BetaRange::DEFAULT;
        for betas in [range.linear(1000), range.scaled_linear(1000)] {
            assert_eq!(betas.len(), 1000);
            assert!((betas[0] - 1e-4).abs() < 1e-15);
            assert!((betas[999] - 0.02).abs() < 1e-15);
        }
    }

    #[test]
    fn scaling_keeps_the_sum_of_the_betas() {
        let scaled = BetaRange {
            scale_betas: true,
            ..BetaRange::DEFAULT
        };
        let total: f64 = scaled.linear(200).iter().sum();
        assert!((total - 1000.0 * (1e-4 + 0.02) / 2.0).abs() < 1e-9);
    }

    /// Sums over ever finer betas converge to the integral.
    #[test]
    fn the_integral_is_the_limit_of_the_sums() {
        type Betas = fn(&BetaRange, usize) -> Vec<f64>;
        type Curve = fn(&BetaRange, Time) -> Rates;
        let kinds: [(Betas, Curve); 3] = [
            (BetaRange::linear, BetaRange::linear_curve),
            (BetaRange::scaled_linear, BetaRange::scaled_linear_curve),
            (BetaRange::along_sigmoid, BetaRange::along_sigmoid_curve),
        ];
        let range = BetaRange::DEFAULT;
        for (betas, curve) in kinds {
            let fine = betas(&range, 100_000);
            for part in [0.3, 0.7, 1.0] {
                let count = (part * 100_000.0) as usize;
                let sum: f64 = fine[..count].iter().sum::<f64>() / 100_000.0;
                // With one timestep, `part` of it after the clean image.
                let time = Time {
                    timestep: part - 1.0,
                    timesteps: 1,
                };
                let integral = -2.0 * curve(&range, time).signal.ln();
                assert!((sum / integral - 1.0).abs() < 1e-4, "{part}");
            }
        }
    }
}
