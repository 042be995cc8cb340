//! The curve of the Keras DDIM example.

use serde::{Deserialize, Serialize};

use super::range::require_ends;
use super::time::{Time, mix};
use crate::{DiffusionError, Rates};

/// A curve between two signal rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalRateEnds {
    /// a at timestep 0.
    pub start_signal_rate: f64,
    /// a at the last timestep.
    pub end_signal_rate: f64,
}

impl SignalRateEnds {
    /// The values of the Keras DDIM example.
    pub const DEFAULT: Self = Self {
        start_signal_rate: 0.95,
        end_signal_rate: 0.02,
    };

    pub(super) fn validate(&self) -> Result<(), DiffusionError> {
        let (start, end) = (self.start_signal_rate, self.end_signal_rate);
        require_ends(
            ["start_signal_rate", "end_signal_rate"],
            [start, end],
            1.0 > start && start > end && end > 0.0,
            "the start must lie above the end, both between 0 and 1",
        )
    }

    /// The angle whose cosine is the signal rate grows evenly.
    pub(super) fn angle_linear(&self, time: Time) -> Rates {
        let (start, end) = (self.start_signal_rate.acos(), self.end_signal_rate.acos());
        Rates::at_angle(mix(start, end, time.between_ends()))
    }
}

impl Default for SignalRateEnds {
    fn default() -> Self {
        Self::DEFAULT
    }
}
