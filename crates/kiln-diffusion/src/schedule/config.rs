//! The settings of a schedule.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Table;

use super::kind::ScheduleKind;
use super::time::Time;
use crate::{DiffusionError, Rates};

/// More timesteps than any published model has; a larger number is a typing error.
const MAXIMUM_TIMESTEPS: usize = 1_000_000;

/// The `[schedule]` table of an experiment: the amount of noise at each timestep.
///
/// The defaults are DDPM's and diffusers': linear betas from 1e-4 to 0.02 over 1000 timesteps. Each kind has its own
/// settings beside these in the table; a setting of another kind is refused.
///
/// # Discrete and continuous
/// A schedule is a curve over the timesteps 0 to T - 1, which can be read at any fraction. By default it is *discrete*:
/// computed at the T whole timesteps, on which the network is also trained, and interpolated between them. With
/// `continuous` the curve itself is evaluated everywhere, and a network is trained on all of it. Betas then become the
/// rate of the diffusion whose discretisation they are (Song et al. 2021, eq. 11): alpha_bar = exp(-∫ beta).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScheduleConfig {
    /// The shape of the curve.
    #[serde(flatten)]
    pub kind: ScheduleKind,
    /// T: the number of timesteps, numbered 0 (least noise) to T - 1 (most).
    pub num_train_timesteps: usize,
    /// Whether the curve itself is read, and trained on, between the timesteps. Works with every kind but listed betas.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continuous: bool,
    /// Moves and stretches the signal rates so that the last timestep is pure noise (Lin et al. 2023, algorithm 1).
    /// Works with every kind, and needs a velocity, signal or flow prediction.
    pub zero_terminal_snr: bool,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::of(ScheduleKind::default())
    }
}

impl ScheduleConfig {
    /// A schedule of this kind with 1000 timesteps.
    pub fn of(kind: ScheduleKind) -> Self {
        Self {
            kind,
            num_train_timesteps: 1000,
            continuous: false,
            zero_terminal_snr: false,
        }
    }

    /// Checks these settings.
    ///
    /// # Errors
    /// A setting out of range, and listed betas with `continuous`.
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
        if self.continuous && matches!(self.kind, ScheduleKind::Betas(_)) {
            return Err(DiffusionError::ContinuousBetas);
        }
        self.kind.validate(self.num_train_timesteps)
    }

    /// The rates at `timestep`, from 0 to T - 1, on the curve itself.
    pub(super) fn curve(&self, timestep: f64) -> Rates {
        self.kind.rates(Time {
            timestep,
            timesteps: self.num_train_timesteps,
        })
    }
}

/// The settings of every kind.
#[derive(Deserialize)]
#[serde(default)]
struct OfEveryKind {
    num_train_timesteps: usize,
    continuous: bool,
    zero_terminal_snr: bool,
}

impl OfEveryKind {
    const KEYS: [&'static str; 3] = ["num_train_timesteps", "continuous", "zero_terminal_snr"];
}

impl Default for OfEveryKind {
    fn default() -> Self {
        let ScheduleConfig {
            num_train_timesteps,
            continuous,
            zero_terminal_snr,
            kind: _,
        } = ScheduleConfig::default();
        Self {
            num_train_timesteps,
            continuous,
            zero_terminal_snr,
        }
    }
}

impl<'de> Deserialize<'de> for ScheduleConfig {
    /// By hand, because serde cannot read an enum whose tag is optional, and cannot list all valid keys when it refuses
    /// an unknown one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = |error: toml::de::Error| D::Error::custom(error.message());
        let mut table = Table::deserialize(deserializer)?;
        let of_every_kind: Table = (OfEveryKind::KEYS.into_iter())
            .filter_map(|key| table.remove_entry(key))
            .collect();
        let OfEveryKind {
            num_train_timesteps,
            continuous,
            zero_terminal_snr,
        } = OfEveryKind::deserialize(of_every_kind).map_err(refused)?;
        let default = ScheduleKind::default();
        (table.entry("kind")).or_insert_with(|| default.name().into());
        // kiln 0.1.0 wrote this key into the config of every run.
        if table.get("scale_betas").and_then(|value| value.as_bool()) == Some(false) {
            table.remove("scale_betas");
        }
        let name = table.get("kind").and_then(|kind| kind.as_str());
        let name = name.unwrap_or_default().to_owned();
        let kind = ScheduleKind::deserialize(table).map_err(|error| {
            let message = error.message();
            let Some(unknown) = message.strip_prefix("unknown field `") else {
                return refused(error);
            };
            let mut names: Vec<&str> = unknown.split('`').step_by(2).collect();
            let unknown = names.remove(0);
            names.extend(OfEveryKind::KEYS);
            let names = names.join("`, `");
            D::Error::custom(format!(
                "unknown field `{unknown}` of the kind `{name}`, expected one of `{names}`"
            ))
        })?;
        Ok(Self {
            kind,
            num_train_timesteps,
            continuous,
            zero_terminal_snr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{BetaRange, ListedBetas};

    fn config(text: &str) -> ScheduleConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn an_empty_table_is_ddpm() {
        let ddpm = config("");
        assert_eq!(ddpm, ScheduleConfig::default());
        ddpm.validate().unwrap();
        assert_eq!(ddpm.kind, ScheduleKind::Linear(BetaRange::DEFAULT));
    }

    #[test]
    fn every_kind_has_defaults_that_work() {
        for kind in ScheduleKind::ALL {
            let schedule = match kind {
                ScheduleKind::Betas(_) => {
                    let betas = vec![0.01; 1000];
                    ScheduleConfig::of(ScheduleKind::Betas(ListedBetas { betas }))
                }
                kind => ScheduleConfig::of(kind),
            };
            schedule.validate().unwrap();
            let name = schedule.kind.name();
            if name != "betas" {
                assert_eq!(config(&format!("kind = \"{name}\"")), schedule);
            }
        }
    }

    #[test]
    fn every_key_is_read_and_written_back() {
        for text in [
            "kind = \"scaled-linear\"\nbeta_start = 0.0015\nbeta_end = 0.0195\nscale_betas = true\nnum_train_timesteps = 200\nzero_terminal_snr = true\n",
            "kind = \"signal-step-linear\"\nstart_log_snr = 2.5\nend_log_snr = -7.5\nnum_train_timesteps = 1000\ncontinuous = true\nzero_terminal_snr = false\n",
            "kind = \"angle-linear\"\nstart_signal_rate = 0.9\nend_signal_rate = 0.1\nnum_train_timesteps = 1000\nzero_terminal_snr = false\n",
            "kind = \"sigmoid\"\nsigmoid_start = 0.0\nsigmoid_end = 3.0\ntau = 0.9\nnum_train_timesteps = 1000\nzero_terminal_snr = false\n",
            "kind = \"karras\"\nsigma_min = 0.01\nsigma_max = 50.0\nrho = 5.0\nnum_train_timesteps = 1000\nzero_terminal_snr = false\n",
            "kind = \"cosine\"\nnum_train_timesteps = 1000\nzero_terminal_snr = false\n",
        ] {
            let read = config(text);
            read.validate().unwrap();
            assert_eq!(toml::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn the_configs_of_the_first_version_are_read() {
        let text = "kind = \"cosine\"\nnum_train_timesteps = 200\nscale_betas = false\nzero_terminal_snr = false";
        assert_eq!(config(text).kind, ScheduleKind::Cosine);
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
            let own = serde_json::to_value(&kind).unwrap();
            for line in all {
                let key = line.split(' ').next().unwrap();
                let mut text = format!("kind = \"{}\"\n{line}\n", kind.name());
                if kind.name() == "betas" && key != "betas" {
                    text += "betas = [0.1]";
                }
                let read = toml::from_str::<ScheduleConfig>(&text);
                if own.get(key).is_some() {
                    read.unwrap();
                } else {
                    let message = read.unwrap_err().to_string();
                    assert!(
                        message.contains(&format!("unknown field `{key}`")),
                        "{message}"
                    );
                    assert!(message.contains("`num_train_timesteps`"), "{message}");
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
            ("kind = \"betas\"\nbetas = [0.1]", "one per timestep"),
            (
                "kind = \"betas\"\ncontinuous = true\nbetas = [0.1]",
                "`continuous` needs a curve",
            ),
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

    #[test]
    fn a_list_of_betas_may_end_in_pure_noise() {
        let listed = config("kind = \"betas\"\nnum_train_timesteps = 3\nbetas = [0.1, 0.2, 1.0]");
        listed.validate().unwrap();
        assert_eq!(listed.kind.betas(3).unwrap(), [0.1, 0.2, 1.0]);
        let without = toml::from_str::<ScheduleConfig>("kind = \"betas\"").unwrap_err();
        assert!(
            without.message().contains("missing field `betas`"),
            "{without}"
        );
    }
}
