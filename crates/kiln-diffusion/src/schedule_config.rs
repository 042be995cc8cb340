//! The settings of a schedule, and the betas that they stand for.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};

use crate::DiffusionError;

/// More timesteps than any published model has; a larger number is a typing error.
const MAXIMUM_TIMESTEPS: usize = 1_000_000;

/// The number of timesteps for which the usual beta ranges were chosen.
const REFERENCE_TIMESTEPS: f64 = 1000.0;

/// How the betas (the share of the variance that each timestep replaces by noise) grow over the
/// timesteps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Equal steps from `beta_start` to `beta_end` (DDPM, Ho et al. 2020).
    #[default]
    Linear,
    /// Equal steps between the square roots of `beta_start` and `beta_end`, then squared (latent
    /// diffusion, Rombach et al. 2022).
    ScaledLinear,
    /// alpha_bar(t) = cos²((t + 0.008) / 1.008 · π/2), each beta at most 0.999 (iDDPM, Nichol and
    /// Dhariwal 2021).
    Cosine,
    /// Listed one by one in `betas`: for models from elsewhere whose schedule is none of the
    /// others.
    Betas,
}

impl ScheduleKind {
    /// The name in a config file.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleKind::Linear => "linear",
            ScheduleKind::ScaledLinear => "scaled-linear",
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Betas => "betas",
        }
    }
}

/// The `[diffusion.schedule]` table of an experiment: which noise is added at which timestep.
///
/// The defaults are those of DDPM and of diffusers: linear betas from 1e-4 to 0.02 over 1000
/// timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape of the curve.
    pub kind: ScheduleKind,
    /// T: the number of timesteps, numbered 0 (least noise) to T - 1 (most).
    pub num_train_timesteps: usize,
    /// The first beta (`linear` and `scaled-linear`).
    pub beta_start: f64,
    /// The last beta (`linear` and `scaled-linear`).
    pub beta_end: f64,
    /// Multiplies the betas by 1000 / T, so that a range chosen for T = 1000 ends in as much noise
    /// with any other T.
    pub scale_betas: bool,
    /// Moves and stretches the signal rates so that the last timestep is pure noise (Lin et al.
    /// 2023, algorithm 1). Needs a velocity or signal prediction.
    pub zero_terminal_snr: bool,
    /// The betas one by one, for `kind = "betas"` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Linear,
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            scale_betas: false,
            zero_terminal_snr: false,
            betas: None,
        }
    }
}

impl ScheduleConfig {
    /// Says what is wrong with these settings, if anything is.
    ///
    /// # Errors
    /// Every setting out of range, and every setting that the chosen kind would ignore.
    pub fn validate(&self) -> Result<(), DiffusionError> {
        // The rescaling to zero terminal SNR needs two different points.
        let minimum = if self.zero_terminal_snr { 2 } else { 1 };
        if !(minimum..=MAXIMUM_TIMESTEPS).contains(&self.num_train_timesteps) {
            return Err(DiffusionError::TrainTimesteps {
                value: self.num_train_timesteps,
                minimum,
                maximum: MAXIMUM_TIMESTEPS,
            });
        }
        if self.betas.is_some() != (self.kind == ScheduleKind::Betas) {
            return Err(DiffusionError::BetasAndKind);
        }
        match self.kind {
            ScheduleKind::Linear | ScheduleKind::ScaledLinear => {
                let (start, end) = self.beta_range();
                // `contains` and `<=` are false for NaN.
                let inside = start > 0.0 && start <= end && end < 1.0;
                if !inside {
                    let after_scaling = if self.scale_betas {
                        " (times 1000 / T by `scale_betas`)"
                    } else {
                        ""
                    };
                    return Err(DiffusionError::BetaRange {
                        start,
                        end,
                        after_scaling,
                    });
                }
            }
            ScheduleKind::Cosine | ScheduleKind::Betas => {
                if self.scale_betas {
                    return Err(DiffusionError::NothingToScale {
                        kind: self.kind.name(),
                    });
                }
            }
        }
        self.validate_listed_betas()
    }

    fn validate_listed_betas(&self) -> Result<(), DiffusionError> {
        let Some(betas) = &self.betas else {
            return Ok(());
        };
        if betas.len() != self.num_train_timesteps {
            return Err(DiffusionError::BetasLength {
                length: betas.len(),
                expected: self.num_train_timesteps,
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

    /// `beta_start` and `beta_end` after `scale_betas`.
    pub(crate) fn beta_range(&self) -> (f64, f64) {
        let scale = if self.scale_betas {
            REFERENCE_TIMESTEPS / self.num_train_timesteps as f64
        } else {
            1.0
        };
        (self.beta_start * scale, self.beta_end * scale)
    }

    /// The T betas, before any rescaling to zero terminal SNR.
    pub(crate) fn betas(&self) -> Vec<f64> {
        let steps = self.num_train_timesteps;
        let (start, end) = self.beta_range();
        match self.kind {
            ScheduleKind::Linear => linspace(start, end, steps).collect(),
            ScheduleKind::ScaledLinear => linspace(start.sqrt(), end.sqrt(), steps)
                .map(|root| root * root)
                .collect(),
            ScheduleKind::Cosine => (0..steps)
                .map(|i| {
                    let (from, to) = (i as f64 / steps as f64, (i + 1) as f64 / steps as f64);
                    (1.0 - cosine_alpha_bar(to) / cosine_alpha_bar(from)).min(0.999)
                })
                .collect(),
            ScheduleKind::Betas => self.betas.clone().unwrap_or_default(),
        }
    }
}

fn cosine_alpha_bar(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
}

/// `count` equally spaced numbers from `start` to `end`, both included; only `start` for one.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    (0..count).map(move |i| start + step * i as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ScheduleConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn an_empty_table_is_ddpm() {
        let ddpm = config("");
        assert_eq!(ddpm, ScheduleConfig::default());
        ddpm.validate().unwrap();
        assert_eq!(ddpm.betas().len(), 1000);
        assert_eq!(ddpm.betas()[0], 1e-4);
        assert!((ddpm.betas()[999] - 0.02).abs() < 1e-15);
    }

    #[test]
    fn every_key_is_read_and_written_back() {
        let text = "kind = \"scaled-linear\"\nnum_train_timesteps = 200\nbeta_start = 0.0015\nbeta_end = 0.0195\nscale_betas = true\nzero_terminal_snr = true\n";
        let read = config(text);
        assert_eq!(toml::to_string(&read).unwrap(), text);
        assert_eq!(read.beta_range(), (0.0075, 0.0975));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<ScheduleConfig>("beta_begin = 0.1").unwrap_err();
        assert!(error.to_string().contains("beta_begin"), "{error}");
        assert!(toml::from_str::<ScheduleConfig>("kind = \"sigmoid\"").is_err());
    }

    #[test]
    fn scaling_keeps_the_sum_of_the_betas() {
        let scaled = config("num_train_timesteps = 200\nscale_betas = true");
        let total: f64 = scaled.betas().iter().sum();
        assert!((total - 1000.0 * (1e-4 + 0.02) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_work_is_refused_in_a_sentence() {
        for (text, words) in [
            ("num_train_timesteps = 0", "`num_train_timesteps` is 0"),
            (
                "num_train_timesteps = 1\nzero_terminal_snr = true",
                "from 2 to",
            ),
            ("num_train_timesteps = 2000000", "2000000"),
            ("beta_start = 0.0", "from 0 to 0.02"),
            ("beta_start = 0.03", "from 0.03 to 0.02"),
            ("beta_end = 1.0", "beta_end < 1"),
            ("beta_end = nan", "NaN"),
            (
                "num_train_timesteps = 20\nscale_betas = true",
                "times 1000 / T",
            ),
            ("kind = \"cosine\"\nscale_betas = true", "`cosine`"),
            ("kind = \"betas\"", "give both or neither"),
            ("betas = [0.1]", "give both or neither"),
            ("kind = \"betas\"\nbetas = [0.1]", "one a timestep"),
            (
                "kind = \"betas\"\nnum_train_timesteps = 2\nbetas = [0.0, 0.1]",
                "`betas[0]` is 0",
            ),
            (
                "kind = \"betas\"\nnum_train_timesteps = 2\nbetas = [1.0, 0.1]",
                "`betas[0]` is 1",
            ),
        ] {
            let message = config(text).validate().unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(message.ends_with('.'), "{message}");
        }
    }

    #[test]
    fn a_list_of_betas_may_end_in_pure_noise() {
        let listed = config("kind = \"betas\"\nnum_train_timesteps = 3\nbetas = [0.1, 0.2, 1.0]");
        listed.validate().unwrap();
        assert_eq!(listed.betas(), [0.1, 0.2, 1.0]);
    }
}
