//! Curves between two noise levels sigma = b / a.

use serde::{Deserialize, Serialize};

use super::range::{require_ends, require_number};
use super::time::{Time, mix};
use crate::{DiffusionError, Rates};

/// `karras`: the levels of EDM (Karras et al. 2022, eq. 5).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Karras {
    /// b / a at timestep 0.
    pub sigma_min: f64,
    /// b / a at the last timestep.
    pub sigma_max: f64,
    /// How much denser the levels are where there is little noise.
    pub rho: f64,
}

impl Karras {
    /// EDM's values.
    pub const DEFAULT: Self = Self {
        sigma_min: 0.002,
        sigma_max: 80.0,
        rho: 7.0,
    };

    pub(super) fn validate(&self) -> Result<(), DiffusionError> {
        require_number("rho", self.rho)?;
        require_sigmas(self.sigma_min, self.sigma_max)
    }

    /// sigma^(1/rho) grows evenly.
    pub(super) fn rates(&self, time: Time) -> Rates {
        let root = |sigma: f64| sigma.powf(self.rho.recip());
        let root = mix(
            root(self.sigma_min),
            root(self.sigma_max),
            time.between_ends(),
        );
        at_sigma(root.powf(self.rho))
    }
}

impl Default for Karras {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `exponential`: levels that grow by the same factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exponential {
    /// b / a at timestep 0.
    pub sigma_min: f64,
    /// b / a at the last timestep.
    pub sigma_max: f64,
}

impl Exponential {
    /// EDM's values.
    pub const DEFAULT: Self = Self {
        sigma_min: Karras::DEFAULT.sigma_min,
        sigma_max: Karras::DEFAULT.sigma_max,
    };

    pub(super) fn validate(&self) -> Result<(), DiffusionError> {
        require_sigmas(self.sigma_min, self.sigma_max)
    }

    /// ln sigma grows evenly.
    pub(super) fn rates(&self, time: Time) -> Rates {
        at_sigma(
            mix(
                self.sigma_min.ln(),
                self.sigma_max.ln(),
                time.between_ends(),
            )
            .exp(),
        )
    }
}

impl Default for Exponential {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn require_sigmas(least: f64, most: f64) -> Result<(), DiffusionError> {
    require_ends(
        ["sigma_min", "sigma_max"],
        [least, most],
        1e-6 <= least && least < most && most <= 1e6,
        "sigma_min must lie below sigma_max, both between 1e-6 and 1e6",
    )
}

/// The rates with b / a = `sigma`.
fn at_sigma(sigma: f64) -> Rates {
    Rates::from_log_snr(-2.0 * sigma.ln())
}
