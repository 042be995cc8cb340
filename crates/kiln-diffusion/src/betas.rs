//! Schedules that are defined by their betas, the share of the variance that each timestep replaces
//! by noise: `alpha_bar = (1 - beta_0) (1 - beta_1) ..`.

use std::f64::consts::FRAC_PI_2;

use crate::{ScheduleConfig, ScheduleKind};

/// A beta of the iDDPM cosine is at most this, so that the last timestep keeps some signal.
const LARGEST_COSINE_BETA: f64 = 0.999;

/// Which part of a sigmoid `sigmoid-betas` follow: from minus this to this.
const SIGMOID_REACH: f64 = 6.0;

impl ScheduleConfig {
    /// The T betas of a kind that has betas, before any rescaling to zero terminal SNR.
    pub(crate) fn betas(&self) -> Vec<f64> {
        let steps = self.num_train_timesteps;
        let (start, end) = self.beta_range();
        match self.kind {
            ScheduleKind::ScaledLinear => linspace(start.sqrt(), end.sqrt(), steps)
                .map(|root| root * root)
                .collect(),
            ScheduleKind::SigmoidBetas => linspace(-SIGMOID_REACH, SIGMOID_REACH, steps)
                .map(|x| start + (end - start) * sigmoid(x))
                .collect(),
            ScheduleKind::Cosine => (0..steps)
                .map(|i| {
                    let (from, to) = (i as f64 / steps as f64, (i + 1) as f64 / steps as f64);
                    let kept = cosine_signal_rate(to) / cosine_signal_rate(from);
                    (1.0 - kept * kept).min(LARGEST_COSINE_BETA)
                })
                .collect(),
            ScheduleKind::Betas => self.betas.clone().unwrap_or_default(),
            _ => linspace(start, end, steps).collect(),
        }
    }

    /// The integral over 0 to `t` of the betas as a rate, which is -ln alpha_bar of the diffusion
    /// in continuous time (Song et al. 2021, eq. 11 and 33).
    ///
    /// The betas run from one end of their range to the other over t from 0 to 1, which is T
    /// timesteps long.
    pub(crate) fn integrated_betas(&self, t: f64) -> f64 {
        let (start, end) = self.beta_range();
        let integral = match self.kind {
            // The square of r + t (s - r), r and s being the roots.
            ScheduleKind::ScaledLinear => {
                let (root, rise) = (start.sqrt(), end.sqrt() - start.sqrt());
                root * root * t + root * rise * t.powi(2) + rise.powi(2) * t.powi(3) / 3.0
            }
            // The integral of a sigmoid is ln(1 + e^x).
            ScheduleKind::SigmoidBetas => {
                let (from, length) = (-SIGMOID_REACH, 2.0 * SIGMOID_REACH);
                let area = softplus(from + length * t) - softplus(from);
                start * t + (end - start) * area / length
            }
            _ => start * t + (end - start) * t * t / 2.0,
        };
        integral * self.num_train_timesteps as f64
    }
}

/// sqrt(alpha_bar) of iDDPM, cos((t + 0.008) / 1.008 · π/2), written as a sine so that it is
/// exactly 0 at t = 1.
pub(crate) fn cosine_signal_rate(t: f64) -> f64 {
    ((1.0 - t) / 1.008 * FRAC_PI_2).sin()
}

/// 1 / (1 + e^-x).
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x).
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `count` equally spaced numbers from `start` to `end`, both included; only `start` for one.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    (0..count).map(move |i| start + step * i as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn betas_run_from_the_first_to_the_last() {
        for kind in [ScheduleKind::Linear, ScheduleKind::ScaledLinear] {
            let betas = ScheduleConfig {
                kind,
                ..Default::default()
            }
            .betas();
            assert_eq!(betas.len(), 1000);
            assert!((betas[0] - 1e-4).abs() < 1e-15);
            assert!((betas[999] - 0.02).abs() < 1e-15);
        }
    }

    #[test]
    fn scaling_keeps_the_sum_of_the_betas() {
        let scaled = ScheduleConfig {
            num_train_timesteps: 200,
            scale_betas: true,
            ..Default::default()
        };
        let total: f64 = scaled.betas().iter().sum();
        assert!((total - 1000.0 * (1e-4 + 0.02) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_list_of_betas_may_end_in_pure_noise() {
        let listed = ScheduleConfig {
            kind: ScheduleKind::Betas,
            num_train_timesteps: 3,
            betas: Some(vec![0.1, 0.2, 1.0]),
            ..Default::default()
        };
        listed.validate().unwrap();
        assert_eq!(listed.betas(), [0.1, 0.2, 1.0]);
    }

    /// The integral is what sums over ever finer betas tend to.
    #[test]
    fn the_integral_is_the_limit_of_the_sums() {
        for kind in [
            ScheduleKind::Linear,
            ScheduleKind::ScaledLinear,
            ScheduleKind::SigmoidBetas,
        ] {
            let config = |num_train_timesteps| ScheduleConfig {
                kind,
                num_train_timesteps,
                ..Default::default()
            };
            let fine = config(100_000).betas();
            for part in [0.3, 0.7, 1.0] {
                let count = (part * 100_000.0) as usize;
                let sum: f64 = fine[..count].iter().sum::<f64>() / 100_000.0;
                let integral = config(1).integrated_betas(part);
                assert!((sum / integral - 1.0).abs() < 1e-4, "{kind:?} {part}");
            }
        }
    }
}
