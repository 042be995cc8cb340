//! Part of a sigmoid (Jabri et al. 2022; Chen 2023).

use serde::{Deserialize, Serialize};

use super::range::{require_ends, require_number};
use super::time::{Time, mix};
use crate::{DiffusionError, Rates};

/// alpha_bar = gamma(t): with s(x) = sigmoid(x / tau),
/// `(s(end) - s(start + t (end - start))) / (s(end) - s(start))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sigmoid {
    /// Where on the sigmoid the curve starts.
    pub sigmoid_start: f64,
    /// Where on the sigmoid it ends.
    pub sigmoid_end: f64,
    /// The sigmoid's temperature: a lower one spends more timesteps near the ends.
    pub tau: f64,
}

impl Sigmoid {
    /// The values of Jabri et al. 2022.
    pub const DEFAULT: Self = Self {
        sigmoid_start: -3.0,
        sigmoid_end: 3.0,
        tau: 1.0,
    };

    pub(super) fn validate(&self) -> Result<(), DiffusionError> {
        let (start, end, tau) = (self.sigmoid_start, self.sigmoid_end, self.tau);
        require_number("tau", tau)?;
        require_ends(
            ["sigmoid_start", "sigmoid_end"],
            [start, end],
            start < end && start.abs().max(end.abs()) <= 20.0 * tau,
            "the start must lie below the end, both between -20 tau and 20 tau",
        )
    }

    pub(super) fn rates(&self, time: Time) -> Rates {
        let (start, end) = (self.sigmoid_start, self.sigmoid_end);
        let at = |x: f64| sigmoid(x / self.tau);
        let x = mix(start, end, time.since_clean());
        Rates::towards_pure_noise((at(end) - at(x)) / (at(end) - at(start)))
    }
}

impl Default for Sigmoid {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// 1 / (1 + e^-x).
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Its integral: ln(1 + e^x).
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
