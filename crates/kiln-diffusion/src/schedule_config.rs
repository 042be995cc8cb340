//! The settings of a schedule.

use serde::{Deserialize, Serialize};

use crate::{DiffusionError, ScheduleKind};

/// More timesteps than any published model has; a larger number is a typing error.
const MAXIMUM_TIMESTEPS: usize = 1_000_000;

/// The number of timesteps for which the usual beta ranges were chosen.
const REFERENCE_TIMESTEPS: f64 = 1000.0;

/// The betas of DDPM and of diffusers.
pub(crate) const BETA_START: f64 = 1e-4;
pub(crate) const BETA_END: f64 = 0.02;

/// Log-SNRs beyond this are no different from pure signal and pure noise.
const LARGEST_LOG_SNR: f64 = 30.0;

/// The `[schedule]` table of an experiment: how much noise there is at which timestep.
///
/// The defaults are those of DDPM and of diffusers: linear betas from 1e-4 to 0.02 over 1000
/// timesteps. Each kind has settings of its own ([`ScheduleKind::keys`]); one that the chosen kind
/// would ignore is refused.
///
/// # Discrete and continuous
/// A schedule is a curve over the timesteps 0 to T - 1, which can be read at any fraction. By
/// default it is *discrete*: computed at the T whole timesteps, which are also those that a network
/// is trained on, and interpolated between them. With `continuous` the curve itself is evaluated
/// everywhere, and a network is trained on all of it. Betas then become the rate of the diffusion
/// whose discretisation they are (Song et al. 2021, eq. 11): alpha_bar = exp(-∫ beta).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape of the curve.
    pub kind: ScheduleKind,
    /// T: the number of timesteps, numbered 0 (least noise) to T - 1 (most).
    pub num_train_timesteps: usize,
    /// Whether the curve itself is read between the timesteps, and trained on there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continuous: bool,
    /// The first beta; absent: 1e-4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_start: Option<f64>,
    /// The last beta; absent: 0.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_end: Option<f64>,
    /// Multiplies the betas by 1000 / T, so that a range chosen for T = 1000 ends in as much noise
    /// with any other T.
    pub scale_betas: bool,
    /// Moves and stretches the signal rates so that the last timestep is pure noise (Lin et al.
    /// 2023, algorithm 1). Goes with every kind, and needs a velocity, signal or flow prediction.
    pub zero_terminal_snr: bool,
    /// ln(a² / b²) at timestep 0; absent: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_log_snr: Option<f64>,
    /// ln(a² / b²) at the last timestep; absent: -10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_log_snr: Option<f64>,
    /// a at timestep 0; absent: 0.95.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_signal_rate: Option<f64>,
    /// a at the last timestep; absent: 0.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_signal_rate: Option<f64>,
    /// Where on the sigmoid the curve starts; absent: -3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmoid_start: Option<f64>,
    /// Where on the sigmoid it ends; absent: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmoid_end: Option<f64>,
    /// The sigmoid's temperature: a lower one spends more timesteps near the ends; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// b / a at timestep 0; absent: 0.002.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// b / a at the last timestep; absent: 80.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// How much denser the levels are where there is little noise; absent: 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// The betas one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betas: Option<Vec<f64>>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Linear,
            num_train_timesteps: 1000,
            continuous: false,
            beta_start: None,
            beta_end: None,
            scale_betas: false,
            zero_terminal_snr: false,
            start_log_snr: None,
            end_log_snr: None,
            start_signal_rate: None,
            end_signal_rate: None,
            sigmoid_start: None,
            sigmoid_end: None,
            tau: None,
            sigma_min: None,
            sigma_max: None,
            rho: None,
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
        self.refuse_unused_keys()?;
        self.validate_beta_range()?;
        for (key, value) in [("tau", self.tau()), ("rho", self.rho())] {
            if !(0.01..=100.0).contains(&value) {
                let valid = "give a number from 0.01 to 100";
                return Err(DiffusionError::Number { key, value, valid });
            }
        }
        require_ends(
            ["start_log_snr", "end_log_snr"],
            self.log_snr_ends(),
            |start, end| LARGEST_LOG_SNR >= start && start > end && end >= -LARGEST_LOG_SNR,
            "the start must lie above the end, both between -30 and 30",
        )?;
        require_ends(
            ["start_signal_rate", "end_signal_rate"],
            self.signal_rate_ends(),
            |start, end| 1.0 > start && start > end && end > 0.0,
            "the start must lie above the end, both between 0 and 1",
        )?;
        require_ends(
            ["sigmoid_start", "sigmoid_end"],
            self.sigmoid_ends(),
            |start, end| start < end && start.abs().max(end.abs()) <= 20.0 * self.tau(),
            "the start must lie below the end, both between -20 tau and 20 tau",
        )?;
        require_ends(
            ["sigma_min", "sigma_max"],
            self.sigma_ends(),
            |start, end| 1e-6 <= start && start < end && end <= 1e6,
            "sigma_min must lie below sigma_max, both between 1e-6 and 1e6",
        )?;
        self.validate_listed_betas()
    }

    /// Every setting that not all kinds have, and whether it is set.
    fn settings(&self) -> [(&'static str, bool); 15] {
        [
            ("continuous", self.continuous),
            ("beta_start", self.beta_start.is_some()),
            ("beta_end", self.beta_end.is_some()),
            ("scale_betas", self.scale_betas),
            ("start_log_snr", self.start_log_snr.is_some()),
            ("end_log_snr", self.end_log_snr.is_some()),
            ("start_signal_rate", self.start_signal_rate.is_some()),
            ("end_signal_rate", self.end_signal_rate.is_some()),
            ("sigmoid_start", self.sigmoid_start.is_some()),
            ("sigmoid_end", self.sigmoid_end.is_some()),
            ("tau", self.tau.is_some()),
            ("sigma_min", self.sigma_min.is_some()),
            ("sigma_max", self.sigma_max.is_some()),
            ("rho", self.rho.is_some()),
            ("betas", self.betas.is_some()),
        ]
    }

    fn refuse_unused_keys(&self) -> Result<(), DiffusionError> {
        let keys = self.kind.keys();
        let unused = |(key, is_set): &(&str, bool)| *is_set && !keys.contains(key);
        match self.settings().into_iter().find(unused) {
            Some((key, _)) => Err(DiffusionError::UnusedKey {
                key,
                kind: self.kind.name(),
                keys: keys.join(", "),
            }),
            None => Ok(()),
        }
    }

    fn validate_beta_range(&self) -> Result<(), DiffusionError> {
        let (start, end) = self.beta_range();
        // Comparisons are false for NaN.
        let inside = start > 0.0 && start <= end && end < 1.0;
        if inside {
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

    fn validate_listed_betas(&self) -> Result<(), DiffusionError> {
        if self.kind != ScheduleKind::Betas {
            return Ok(());
        }
        let betas = self.betas.as_ref().ok_or(DiffusionError::MissingBetas)?;
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
        (
            self.beta_start.unwrap_or(BETA_START) * scale,
            self.beta_end.unwrap_or(BETA_END) * scale,
        )
    }

    /// The log-SNRs at the first and the last timestep; the defaults are those of
    /// clear-diffusion-keras.
    pub(crate) fn log_snr_ends(&self) -> (f64, f64) {
        (
            self.start_log_snr.unwrap_or(3.0),
            self.end_log_snr.unwrap_or(-10.0),
        )
    }

    /// The signal rates at the first and the last timestep; the defaults are those of the Keras
    /// DDIM example.
    pub(crate) fn signal_rate_ends(&self) -> (f64, f64) {
        (
            self.start_signal_rate.unwrap_or(0.95),
            self.end_signal_rate.unwrap_or(0.02),
        )
    }

    /// The part of the sigmoid; the defaults are those of Jabri et al. 2022.
    pub(crate) fn sigmoid_ends(&self) -> (f64, f64) {
        (
            self.sigmoid_start.unwrap_or(-3.0),
            self.sigmoid_end.unwrap_or(3.0),
        )
    }

    /// The sigmoid's temperature.
    pub(crate) fn tau(&self) -> f64 {
        self.tau.unwrap_or(1.0)
    }

    /// The noise levels b / a at the first and the last timestep; the defaults are EDM's.
    pub(crate) fn sigma_ends(&self) -> (f64, f64) {
        (
            self.sigma_min.unwrap_or(0.002),
            self.sigma_max.unwrap_or(80.0),
        )
    }

    /// EDM's rho.
    pub(crate) fn rho(&self) -> f64 {
        self.rho.unwrap_or(7.0)
    }
}

fn require_ends(
    [start_key, end_key]: [&'static str; 2],
    (start, end): (f64, f64),
    holds: impl Fn(f64, f64) -> bool,
    valid: &'static str,
) -> Result<(), DiffusionError> {
    if holds(start, end) {
        return Ok(());
    }
    Err(DiffusionError::Ends {
        start_key,
        start,
        end_key,
        end,
        valid,
    })
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
        assert_eq!(ddpm.beta_range(), (1e-4, 0.02));
    }

    #[test]
    fn every_kind_has_defaults_that_work() {
        for kind in ScheduleKind::ALL {
            let schedule = ScheduleConfig {
                kind,
                betas: (kind == ScheduleKind::Betas).then(|| vec![0.01; 1000]),
                ..Default::default()
            };
            schedule.validate().unwrap();
        }
    }

    #[test]
    fn every_key_is_read_and_written_back() {
        for text in [
            "kind = \"scaled-linear\"\nnum_train_timesteps = 200\nbeta_start = 0.0015\nbeta_end = 0.0195\nscale_betas = true\nzero_terminal_snr = true\n",
            "kind = \"signal-step-linear\"\nnum_train_timesteps = 1000\ncontinuous = true\nscale_betas = false\nzero_terminal_snr = false\nstart_log_snr = 2.5\nend_log_snr = -7.5\n",
            "kind = \"angle-linear\"\nnum_train_timesteps = 1000\nscale_betas = false\nzero_terminal_snr = false\nstart_signal_rate = 0.9\nend_signal_rate = 0.1\n",
            "kind = \"sigmoid\"\nnum_train_timesteps = 1000\nscale_betas = false\nzero_terminal_snr = false\nsigmoid_start = 0.0\nsigmoid_end = 3.0\ntau = 0.9\n",
            "kind = \"karras\"\nnum_train_timesteps = 1000\nscale_betas = false\nzero_terminal_snr = false\nsigma_min = 0.01\nsigma_max = 50.0\nrho = 5.0\n",
        ] {
            let read = config(text);
            read.validate().unwrap();
            assert_eq!(toml::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<ScheduleConfig>("beta_begin = 0.1").unwrap_err();
        assert!(error.to_string().contains("beta_begin"), "{error}");
        let error = toml::from_str::<ScheduleConfig>("kind = \"laplace\"").unwrap_err();
        assert!(error.to_string().contains("signal-step-linear"), "{error}");
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let all = [
            "continuous = true",
            "beta_start = 1e-3",
            "beta_end = 0.1",
            "scale_betas = true",
            "start_log_snr = 5.0",
            "end_log_snr = -5.0",
            "start_signal_rate = 0.9",
            "end_signal_rate = 0.1",
            "sigmoid_start = -2.0",
            "sigmoid_end = 2.0",
            "tau = 0.5",
            "sigma_min = 0.1",
            "sigma_max = 10.0",
            "rho = 3.0",
            "betas = [0.1]",
        ];
        for kind in ScheduleKind::ALL {
            let name = kind.name();
            for line in all {
                let key = line.split(' ').next().unwrap();
                let text = format!("kind = \"{name}\"\nnum_train_timesteps = 1\n{line}");
                let result = config(&text).refuse_unused_keys();
                if kind.keys().contains(&key) {
                    result.unwrap();
                } else {
                    let message = result.unwrap_err().to_string();
                    assert!(message.contains(&format!("`{key}`")), "{message}");
                    assert!(message.contains(&format!("`{name}`")), "{message}");
                }
            }
        }
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
            (
                "kind = \"cosine\"\nscale_betas = true",
                "`scale_betas` does nothing to a `cosine` schedule",
            ),
            ("kind = \"betas\"", "one a timestep"),
            ("betas = [0.1]", "`betas` does nothing"),
            ("kind = \"betas\"\nbetas = [0.1]", "one a timestep"),
            (
                "kind = \"betas\"\nnum_train_timesteps = 2\nbetas = [0.0, 0.1]",
                "`betas[0]` is 0",
            ),
            (
                "kind = \"betas\"\nnum_train_timesteps = 2\nbetas = [1.0, 0.1]",
                "`betas[0]` is 1",
            ),
            (
                "kind = \"log-snr-linear\"\nstart_log_snr = -11.0",
                "`start_log_snr` is -11 and `end_log_snr` is -10",
            ),
            (
                "kind = \"log-snr-linear\"\nend_log_snr = -inf",
                "between -30 and 30",
            ),
            (
                "kind = \"angle-linear\"\nstart_signal_rate = 1.0",
                "`start_signal_rate` is 1",
            ),
            (
                "kind = \"angle-linear\"\nend_signal_rate = nan",
                "`end_signal_rate` is NaN",
            ),
            (
                "kind = \"sigmoid\"\nsigmoid_start = 3.0",
                "`sigmoid_start` is 3 and `sigmoid_end` is 3",
            ),
            ("kind = \"sigmoid\"\ntau = 0.0", "`tau` is 0"),
            ("kind = \"karras\"\nrho = -1.0", "`rho` is -1"),
            (
                "kind = \"exponential\"\nsigma_min = 100.0",
                "`sigma_min` is 100 and `sigma_max` is 80",
            ),
        ] {
            let message = config(text).validate().unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(message.ends_with('.'), "{message}");
        }
    }
}
