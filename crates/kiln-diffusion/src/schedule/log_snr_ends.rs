//! Curves between two log-SNRs: the seven of clear-diffusion-keras.
//!
//! t runs from 0 at timestep 0 to 1 at T - 1, p is the noise power b², and p0, p1 are its ends. Each formula is computed from
//! the smaller of the two powers, or from a logarithm, so that neither a² = 1 - p nor b² = p loses digits where it is almost 0.

use serde::{Deserialize, Serialize};

use super::range::require_ends;
use super::sigmoid::softplus;
use super::time::{Time, mix};
use crate::{DiffusionError, Rates};

/// Log-SNRs beyond this are no different from pure signal and pure noise.
const LARGEST: f64 = 30.0;

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSnrEnds {
    /// ln(a² / b²) at timestep 0.
    pub start_log_snr: f64,
    /// ln(a² / b²) at the last timestep.
    pub end_log_snr: f64,
}

impl LogSnrEnds {
    /// The ends of clear-diffusion-keras.
    pub const DEFAULT: Self = Self {
        start_log_snr: 3.0,
        end_log_snr: -10.0,
    };

    pub(super) fn validate(&self) -> Result<(), DiffusionError> {
        let (start, end) = (self.start_log_snr, self.end_log_snr);
        require_ends(
            ["start_log_snr", "end_log_snr"],
            [start, end],
            LARGEST >= start && start > end && end >= -LARGEST,
            "the start must lie above the end, both between -30 and 30",
        )
    }

    /// p = p0 + t (p1 - p0).
    pub(super) fn noise_power_linear(&self, time: Time) -> Rates {
        let (t, [first, last]) = (time.between_ends(), self.rates());
        Rates {
            signal: mix(first.signal.powi(2), last.signal.powi(2), t).sqrt(),
            noise: mix(first.noise.powi(2), last.noise.powi(2), t).sqrt(),
        }
    }

    /// p = sin²(h0 + t (h1 - h0)) with h = asin(sqrt(p)): the angle whose cosine and sine are the rates grows evenly.
    pub(super) fn noise_power_cosine(&self, time: Time) -> Rates {
        let [first, last] = self.rates().map(|rates| rates.noise.atan2(rates.signal));
        Rates::at_angle(mix(first, last, time.between_ends()))
    }

    /// p = 1 / (1 + e^((1 - t) A + t B)) from log-SNR A to log-SNR B.
    pub(super) fn log_snr_linear(&self, time: Time) -> Rates {
        let (start, end) = (self.start_log_snr, self.end_log_snr);
        Rates::from_log_snr(mix(start, end, time.between_ends()))
    }

    /// p = p0 (p1 / p0)^t.
    pub(super) fn log_noise_linear(&self, time: Time) -> Rates {
        let [first, last] = self.log_noise_powers();
        Rates::from_log_noise_power(mix(first, last, time.between_ends()))
    }

    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^t.
    pub(super) fn log_signal_linear(&self, time: Time) -> Rates {
        let [first, last] = self.log_signal_powers();
        Rates::from_log_signal_power(mix(first, last, time.between_ends()))
    }

    /// p = p1 (p0 / p1)^((1 - t)²): the steps of the log noise power shrink evenly.
    pub(super) fn noise_step_linear(&self, time: Time) -> Rates {
        let (t, [first, last]) = (time.between_ends(), self.log_noise_powers());
        Rates::from_log_noise_power(mix(last, first, (1.0 - t).powi(2)))
    }

    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^(t²): the steps of the log signal power grow evenly, as they nearly do with
    /// linear betas.
    pub(super) fn signal_step_linear(&self, time: Time) -> Rates {
        let (t, [first, last]) = (time.between_ends(), self.log_signal_powers());
        Rates::from_log_signal_power(mix(first, last, t * t))
    }

    fn rates(&self) -> [Rates; 2] {
        [self.start_log_snr, self.end_log_snr].map(Rates::from_log_snr)
    }

    /// ln p = -ln(1 + e^log_snr) at both ends.
    fn log_noise_powers(&self) -> [f64; 2] {
        [self.start_log_snr, self.end_log_snr].map(|log_snr| -softplus(log_snr))
    }

    /// ln(1 - p) = -ln(1 + e^-log_snr) at both ends.
    fn log_signal_powers(&self) -> [f64; 2] {
        [self.start_log_snr, self.end_log_snr].map(|log_snr| -softplus(-log_snr))
    }
}

impl Default for LogSnrEnds {
    fn default() -> Self {
        Self::DEFAULT
    }
}
