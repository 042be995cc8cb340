//! Churn: noise that is added before a step, and that the step removes again.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{DiffusionError, Level, Schedule};

/// How much noise [`euler`](super::euler()) and [`heun`](super::heun()) add on the way (Karras et
/// al. 2022, algorithm 2, lines 4 to 6).
///
/// It hides the errors of earlier steps; too much of it removes detail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    /// S_churn: how much in all, 0 for none. A step of S multiplies sigma by 1 + amount / S, at
    /// most by sqrt(2).
    pub amount: f64,
    /// S_min: nothing is added where sigma = b / a is smaller.
    pub sigma_min: f64,
    /// S_max: nothing is added where sigma is larger.
    pub sigma_max: f64,
    /// S_noise: the standard deviation of the added noise; a little above 1 makes up for denoisers
    /// that remove too much.
    pub noise_scale: f64,
}

impl Churn {
    /// No churn: the walk is deterministic.
    pub const NONE: Self = Self {
        amount: 0.0,
        sigma_min: 0.0,
        sigma_max: f64::MAX,
        noise_scale: 1.0,
    };

    pub(super) fn validate(self) -> Result<(), DiffusionError> {
        for (name, value) in [
            ("amount", self.amount),
            ("sigma_min", self.sigma_min),
            ("sigma_max", self.sigma_max),
            ("noise_scale", self.noise_scale),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(DiffusionError::Churn { name, value });
            }
        }
        Ok(())
    }

    /// The noisier image and its level at which one of `steps` steps begins, or `z` and `level` unchanged.
    pub(super) fn begin(
        self,
        z: Tensor<4>,
        level: Level,
        steps: usize,
        schedule: &Schedule,
        fresh_noise: impl FnOnce() -> Tensor<4>,
    ) -> (Tensor<4>, Level) {
        match self.noisier(level, steps, schedule) {
            Some(noisier) => (self.add_noise(z, level, noisier, fresh_noise()), noisier),
            None => (z, level),
        }
    }

    /// The level sigma^ = (1 + gamma) sigma at which one of `steps` steps begins instead of `level`, or `None` if no
    /// noise is added. It never lies beyond the schedule's last timestep, because the network has not seen more noise.
    fn noisier(self, level: Level, steps: usize, schedule: &Schedule) -> Option<Level> {
        let sigma = level.rates.noise / level.rates.signal;
        let gamma = (self.amount / steps as f64).min(2f64.sqrt() - 1.0);
        if gamma == 0.0 || !(self.sigma_min..=self.sigma_max).contains(&sigma) {
            return None;
        }
        // log_snr = -2 ln sigma
        let log_snr = level.rates.log_snr() - 2.0 * (1.0 + gamma).ln();
        let noisier = schedule.level(schedule.timestep_at(log_snr));
        (noisier.rates.signal < level.rates.signal).then_some(noisier)
    }

    /// Adds `fresh_noise` to `z`, from `level` to `noisier`: x^ = x + sqrt(sigma^² - sigma²) S_noise fresh_noise, which
    /// is the forward process between the two levels, z^ = (a^ / a) z + sqrt(1 - (a^ / a)²) S_noise fresh_noise.
    fn add_noise(
        self,
        z: Tensor<4>,
        level: Level,
        noisier: Level,
        fresh_noise: Tensor<4>,
    ) -> Tensor<4> {
        let kept = noisier.rates.signal / level.rates.signal;
        z * kept + fresh_noise * ((1.0 - kept * kept).sqrt() * self.noise_scale)
    }
}

impl Default for Churn {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScheduleConfig;

    #[test]
    fn sigma_grows_by_its_share_and_never_beyond_the_schedule() {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        let sigma = |level: Level| level.rates.noise / level.rates.signal;
        let churn = |amount| Churn {
            amount,
            sigma_min: 0.05,
            sigma_max: 1e9,
            ..Churn::NONE
        };
        let growth = |amount, timestep| {
            let level = schedule.level(timestep);
            let noisier = churn(amount).noisier(level, 10, &schedule);
            noisier.map(|noisier| sigma(noisier) / sigma(level))
        };
        assert!((growth(1.0, 500.0).unwrap() - 1.1).abs() < 1e-9);
        assert!((growth(80.0, 500.0).unwrap() - 2f64.sqrt()).abs() < 1e-9);
        assert_eq!(growth(0.0, 500.0), None);
        // Below `sigma_min`, at the last timestep, and just before it.
        assert_eq!(growth(1.0, 0.0), None);
        assert_eq!(growth(1.0, 999.0), None);
        assert!((1.0..1.05).contains(&growth(1.0, 998.0).unwrap()));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        for churn in [
            Churn {
                amount: -1.0,
                ..Churn::NONE
            },
            Churn {
                amount: f64::NAN,
                ..Churn::NONE
            },
            Churn {
                noise_scale: f64::INFINITY,
                ..Churn::NONE
            },
        ] {
            let message = churn.validate().unwrap_err().to_string();
            assert!(
                message.contains("amount") || message.contains("noise_scale"),
                "{message}"
            );
        }
        Churn::NONE.validate().unwrap();
    }
}
