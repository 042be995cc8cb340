//! Betas one by one: for models from elsewhere with another schedule.

use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::{DiffusionError, Rates};

/// The betas of the timesteps 0 to T - 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedBetas {
    /// As many as there are timesteps, each between 0 and 1; only the last may be 1.
    pub betas: Vec<f64>,
}

impl ListedBetas {
    /// Empty, to be filled in.
    pub(super) const DEFAULT: Self = Self { betas: Vec::new() };

    pub(super) fn validate(&self, timesteps: usize) -> Result<(), DiffusionError> {
        let betas = &self.betas;
        if betas.len() != timesteps {
            return Err(DiffusionError::BetasLength {
                length: betas.len(),
                expected: timesteps,
            });
        }
        for (index, &value) in betas.iter().enumerate() {
            let last = index + 1 == betas.len();
            let inside = value > 0.0 && (value < 1.0 || (last && index > 0 && value == 1.0));
            if !inside {
                return Err(DiffusionError::Beta { index, value });
            }
        }
        Ok(())
    }

    /// After the betas up to this timestep: a list is a curve with steps.
    pub(super) fn rates(&self, time: Time) -> Rates {
        let until = (time.timestep as usize).saturating_add(1);
        let kept = self.betas.iter().take(until).map(|beta| 1.0 - beta);
        Rates::from_signal(kept.product::<f64>().sqrt())
    }
}
