//! diffusers' `scheduler_config.json`, read and written.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::sampler::{Sampler, Variance};
use crate::schedule_config::{BETA_END, BETA_START};
use crate::{
    DiffusionError, FinalLevel, LevelOptions, Prediction, Schedule, ScheduleConfig, ScheduleKind,
    Spacing,
};

/// The release of diffusers whose numbers and keys these are.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// How a model was trained to denoise and is meant to be sampled: what diffusers keeps in
/// `scheduler/scheduler_config.json`, as a `DDIMScheduler` or a `DDPMScheduler`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulerConfig {
    /// The noise at each timestep.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Clips the estimated z0 to [-range, range].
    pub clip: Option<f64>,
    /// Which timesteps are visited and where the walk ends.
    pub levels: LevelOptions,
    /// The class of the scheduler. The file has no place for `eta`, which Python passes when it
    /// samples: it reads as 0.
    pub sampler: Sampler,
}

impl SchedulerConfig {
    /// Reads the JSON text of a `DDIMScheduler` or `DDPMScheduler`; absent keys have diffusers'
    /// defaults.
    ///
    /// # Errors
    /// Text that is not such a file, an option that is not available here (named, with its value),
    /// and whatever [`ScheduleConfig::validate`] and [`Prediction::validate`] refuse.
    pub fn from_json(text: &str) -> Result<Self, DiffusionError> {
        let fields = serde_json::from_str(text)
            .map_err(|error| DiffusionError::SchedulerJson(error.to_string()))?;
        let mut fields = Fields(fields);

        let class: String = fields.take("_class_name", "DDIMScheduler".to_owned())?;
        let variance: String = fields.take("variance_type", "fixed_small".to_owned())?;
        let ends_clean: bool = fields.take("set_alpha_to_one", true)?;
        let (sampler, final_level) = match class.as_str() {
            "DDIMScheduler" => {
                let final_level = if ends_clean {
                    FinalLevel::Clean
                } else {
                    FinalLevel::First
                };
                (Sampler::default(), final_level)
            }
            "DDPMScheduler" => (
                Sampler::Ddpm {
                    variance: read_variance(&variance)?,
                },
                FinalLevel::Clean,
            ),
            _ => {
                return refuse(
                    "_class_name",
                    class,
                    "use a DDIMScheduler or a DDPMScheduler",
                );
            }
        };
        let config = Self {
            schedule: fields.take_schedule()?,
            prediction: fields.take_prediction()?,
            clip: fields.take_clip()?,
            levels: LevelOptions {
                spacing: fields.take_spacing()?,
                steps_offset: fields.take("steps_offset", 0)?,
                final_level,
            },
            sampler,
        };
        fields.finish()?;
        config
            .prediction
            .validate(&Schedule::new(config.schedule.clone())?)?;
        Ok(config)
    }

    /// The JSON text that Python loads with `DDIMScheduler.from_pretrained` or
    /// `DDPMScheduler.from_pretrained`.
    ///
    /// A schedule that diffusers has no name for is written as the `trained_betas` that lead through
    /// its whole timesteps. That says all of a discrete schedule; a continuous one reads back as
    /// discrete, which is the same wherever a sampler that walks whole timesteps looks.
    /// [`Prediction::Flow`] is written under our name: diffusers loads such a file, and refuses to
    /// sample with it.
    ///
    /// # Errors
    /// Settings that diffusers has no word for: [`Spacing::Quadratic`], and DDPM that ends at
    /// [`FinalLevel::First`].
    pub fn to_json(&self) -> Result<String, DiffusionError> {
        let schedule = &self.schedule;
        let (beta_start, beta_end) = schedule.beta_range();
        let beta_schedule = match schedule.kind {
            _ if schedule.continuous => None,
            ScheduleKind::Linear => Some("linear"),
            ScheduleKind::ScaledLinear => Some("scaled_linear"),
            ScheduleKind::Cosine => Some("squaredcos_cap_v2"),
            // Only some of diffusers' classes know `sigmoid`; all know a list of betas.
            _ => None,
        };
        let trained_betas = match beta_schedule {
            Some(_) => None,
            None => Some(listed_betas(schedule)?),
        };
        let spacing = match self.levels.spacing {
            Spacing::Leading => "leading",
            Spacing::Linspace => "linspace",
            Spacing::Trailing => "trailing",
            Spacing::Quadratic => return Err(DiffusionError::NotInDiffusers("quadratic spacing")),
        };
        let prediction = match self.prediction {
            Prediction::Noise => "epsilon",
            Prediction::Signal => "sample",
            Prediction::Velocity => "v_prediction",
            Prediction::Flow => "flow",
        };
        let mut fields = json!({
            "_diffusers_version": DIFFUSERS_VERSION,
            "num_train_timesteps": schedule.num_train_timesteps,
            "beta_schedule": beta_schedule.unwrap_or("linear"),
            "beta_start": beta_start,
            "beta_end": beta_end,
            "trained_betas": trained_betas,
            "rescale_betas_zero_snr": schedule.zero_terminal_snr,
            "prediction_type": prediction,
            "clip_sample": self.clip.is_some(),
            "clip_sample_range": self.clip.unwrap_or(1.0),
            "timestep_spacing": spacing,
            "steps_offset": self.levels.steps_offset,
            "thresholding": false,
            "dynamic_thresholding_ratio": 0.995,
            "sample_max_value": 1.0,
        });
        match (self.sampler, self.levels.final_level) {
            (Sampler::Ddim { .. }, final_level) => {
                fields["_class_name"] = "DDIMScheduler".into();
                fields["set_alpha_to_one"] = (final_level == FinalLevel::Clean).into();
            }
            (Sampler::Ddpm { variance }, FinalLevel::Clean) => {
                fields["_class_name"] = "DDPMScheduler".into();
                fields["variance_type"] = match variance {
                    Variance::Small => "fixed_small".into(),
                    Variance::Large => "fixed_large".into(),
                };
            }
            (Sampler::Ddpm { .. }, FinalLevel::First) => {
                return Err(DiffusionError::NotInDiffusers(
                    "DDPM that ends at timestep 0 instead of the clean image",
                ));
            }
        }
        Ok(format!("{fields:#}\n"))
    }
}

/// The file's keys, taken out one by one so that whatever is left over can be refused by name.
struct Fields(Map<String, Value>);

impl Fields {
    /// Takes `key` out; absent or null is `default`.
    fn take<T: DeserializeOwned>(&mut self, key: &str, default: T) -> Result<T, DiffusionError> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match serde_json::from_value(value.clone()) {
                Ok(parsed) => Ok(parsed),
                Err(_) => refuse(key, value, "diffusers writes another type there"),
            },
        }
    }

    fn take_schedule(&mut self) -> Result<ScheduleConfig, DiffusionError> {
        let default = ScheduleConfig::default();
        let betas: Option<Vec<f64>> = self.take("trained_betas", None)?;
        let name: String = self.take("beta_schedule", "linear".to_owned())?;
        let kind = match name.as_str() {
            // As in diffusers, a list of betas goes before the name.
            _ if betas.is_some() => ScheduleKind::Betas,
            "linear" => ScheduleKind::Linear,
            "scaled_linear" => ScheduleKind::ScaledLinear,
            "squaredcos_cap_v2" => ScheduleKind::Cosine,
            "sigmoid" => ScheduleKind::SigmoidBetas,
            _ => {
                return refuse(
                    "beta_schedule",
                    name,
                    "use linear, scaled_linear, squaredcos_cap_v2, sigmoid or `trained_betas`",
                );
            }
        };
        // Files have a range of betas whether or not it is used, or is the default.
        let has_range = kind.keys().contains(&"beta_start");
        let chosen = |beta: f64, default| (has_range && beta != default).then_some(beta);
        Ok(ScheduleConfig {
            kind,
            num_train_timesteps: self.take("num_train_timesteps", default.num_train_timesteps)?,
            beta_start: chosen(self.take("beta_start", BETA_START)?, BETA_START),
            beta_end: chosen(self.take("beta_end", BETA_END)?, BETA_END),
            zero_terminal_snr: self.take("rescale_betas_zero_snr", false)?,
            betas,
            ..default
        })
    }

    fn take_prediction(&mut self) -> Result<Prediction, DiffusionError> {
        let name: String = self.take("prediction_type", "epsilon".to_owned())?;
        match name.as_str() {
            "epsilon" => Ok(Prediction::Noise),
            "sample" => Ok(Prediction::Signal),
            "v_prediction" => Ok(Prediction::Velocity),
            "flow" => Ok(Prediction::Flow),
            _ => refuse(
                "prediction_type",
                name,
                "use epsilon, sample, v_prediction, or flow as kiln writes it",
            ),
        }
    }

    fn take_clip(&mut self) -> Result<Option<f64>, DiffusionError> {
        // The two settings of dynamic thresholding mean nothing while it is off.
        self.take("dynamic_thresholding_ratio", Value::Null)?;
        self.take("sample_max_value", Value::Null)?;
        if self.take("thresholding", false)? {
            return refuse(
                "thresholding",
                true,
                "dynamic thresholding is not available, use `clip_sample`",
            );
        }
        let range: f64 = self.take("clip_sample_range", 1.0)?;
        if !self.take("clip_sample", true)? {
            return Ok(None);
        }
        if range > 0.0 {
            Ok(Some(range))
        } else {
            refuse("clip_sample_range", range, "it must be positive")
        }
    }

    fn take_spacing(&mut self) -> Result<Spacing, DiffusionError> {
        let name: String = self.take("timestep_spacing", "leading".to_owned())?;
        match name.as_str() {
            "leading" => Ok(Spacing::Leading),
            "linspace" => Ok(Spacing::Linspace),
            "trailing" => Ok(Spacing::Trailing),
            _ => refuse(
                "timestep_spacing",
                name,
                "use leading, linspace or trailing",
            ),
        }
    }

    /// Refuses what nobody took. Keys with an underscore are diffusers' notes to itself, and null
    /// asks for nothing.
    fn finish(self) -> Result<(), DiffusionError> {
        match self
            .0
            .into_iter()
            .find(|(key, value)| !key.starts_with('_') && !value.is_null())
        {
            Some((key, value)) => refuse(&key, value, "no scheduler here has this key, remove it"),
            None => Ok(()),
        }
    }
}

/// The betas from each whole timestep to the next, before a rescaling to zero terminal SNR, which the
/// file has a key for.
fn listed_betas(schedule: &ScheduleConfig) -> Result<Vec<f64>, DiffusionError> {
    let schedule = ScheduleConfig {
        zero_terminal_snr: false,
        ..schedule.clone()
    };
    match schedule.betas {
        Some(betas) => Ok(betas),
        None => Ok(Schedule::new(schedule)?.step_betas()),
    }
}

fn read_variance(name: &str) -> Result<Variance, DiffusionError> {
    match name {
        // `fixed_small_log` is the same variance by way of its logarithm.
        "fixed_small" | "fixed_small_log" => Ok(Variance::Small),
        "fixed_large" => Ok(Variance::Large),
        _ => refuse("variance_type", name, "use fixed_small or fixed_large"),
    }
}

fn refuse<T>(
    key: &str,
    value: impl Into<Value>,
    supported: &'static str,
) -> Result<T, DiffusionError> {
    Err(DiffusionError::SchedulerOption {
        key: key.to_owned(),
        value: value.into().to_string(),
        supported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_has_diffusers_defaults() {
        let read = SchedulerConfig::from_json("{}").unwrap();
        assert_eq!(
            read,
            SchedulerConfig {
                clip: Some(1.0),
                ..Default::default()
            }
        );
    }

    #[test]
    fn everything_that_can_be_written_reads_back() {
        let mut count = 0;
        for kind in [
            ScheduleKind::Linear,
            ScheduleKind::ScaledLinear,
            ScheduleKind::Cosine,
            ScheduleKind::Betas,
        ] {
            let has_range = kind.keys().contains(&"beta_start");
            for prediction in Prediction::ALL {
                for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
                    for (sampler, final_level) in [
                        (Sampler::default(), FinalLevel::Clean),
                        (Sampler::default(), FinalLevel::First),
                        (
                            Sampler::Ddpm {
                                variance: Variance::Small,
                            },
                            FinalLevel::Clean,
                        ),
                        (
                            Sampler::Ddpm {
                                variance: Variance::Large,
                            },
                            FinalLevel::Clean,
                        ),
                    ] {
                        let config = SchedulerConfig {
                            schedule: ScheduleConfig {
                                kind,
                                num_train_timesteps: 3,
                                beta_start: has_range.then_some(1e-3),
                                beta_end: has_range.then_some(0.3),
                                zero_terminal_snr: prediction != Prediction::Noise,
                                betas: (kind == ScheduleKind::Betas).then(|| vec![0.1, 0.25, 0.5]),
                                ..Default::default()
                            },
                            prediction,
                            clip: (prediction == Prediction::Signal).then_some(1.5),
                            levels: LevelOptions {
                                spacing,
                                steps_offset: 1,
                                final_level,
                            },
                            sampler,
                        };
                        assert_eq!(
                            SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap(),
                            config
                        );
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(count, 192);
    }

    #[test]
    fn scaled_betas_are_written_as_the_betas_they_are() {
        let schedule = ScheduleConfig {
            num_train_timesteps: 200,
            scale_betas: true,
            ..Default::default()
        };
        let config = SchedulerConfig {
            schedule: schedule.clone(),
            ..Default::default()
        };
        let read = SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap();
        assert!(!read.schedule.scale_betas);
        let (ours, theirs) = (
            Schedule::new(schedule).unwrap(),
            Schedule::new(read.schedule).unwrap(),
        );
        for timestep in [0.0, 57.3, 199.0] {
            assert_eq!(ours.rates(timestep), theirs.rates(timestep));
        }
    }

    #[test]
    fn every_schedule_can_be_written_and_is_the_same_at_whole_timesteps() {
        for kind in ScheduleKind::ALL {
            for continuous in [false, true] {
                for zero_terminal_snr in [false, true] {
                    let schedule = ScheduleConfig {
                        kind,
                        continuous: continuous && kind != ScheduleKind::Betas,
                        zero_terminal_snr,
                        num_train_timesteps: 50,
                        betas: (kind == ScheduleKind::Betas).then(|| vec![0.1; 50]),
                        ..Default::default()
                    };
                    let config = SchedulerConfig {
                        schedule: schedule.clone(),
                        prediction: Prediction::Flow,
                        ..Default::default()
                    };
                    let read = SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap();
                    let ours = Schedule::new(schedule).unwrap();
                    let theirs = Schedule::new(read.schedule).unwrap();
                    for timestep in 0..50 {
                        let (ours, theirs) = (
                            ours.rates(f64::from(timestep)),
                            theirs.rates(f64::from(timestep)),
                        );
                        let apart = (ours.signal - theirs.signal).abs();
                        assert!(apart < 1e-12, "{kind:?} {timestep}: {apart:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn notes_and_nulls_are_passed_over() {
        let text = r#"{"_class_name": "DDPMScheduler", "_diffusers_version": "0.0.4", "_use_default_values": ["x"],
            "variance_type": "fixed_small_log", "timestep_values": null, "trained_betas": null}"#;
        let read = SchedulerConfig::from_json(text).unwrap();
        assert_eq!(
            read.sampler,
            Sampler::Ddpm {
                variance: Variance::Small
            }
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, words) in [
            ("", "`scheduler_config.json`"),
            ("[1]", "`scheduler_config.json`"),
            (
                r#"{"_class_name": "PNDMScheduler"}"#,
                "`_class_name` = \"PNDMScheduler\"",
            ),
            (
                r#"{"beta_schedule": "laplace"}"#,
                "`beta_schedule` = \"laplace\"",
            ),
            (
                r#"{"prediction_type": "flow_prediction"}"#,
                "flow_prediction",
            ),
            (r#"{"timestep_spacing": "karras"}"#, "karras"),
            (r#"{"thresholding": true}"#, "`thresholding` = true"),
            (
                r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#,
                "learned_range",
            ),
            (r#"{"clip_sample_range": 0}"#, "`clip_sample_range` = 0"),
            (
                r#"{"num_train_timesteps": "many"}"#,
                "`num_train_timesteps` = \"many\"",
            ),
            (
                r#"{"num_train_timesteps": -1}"#,
                "`num_train_timesteps` = -1",
            ),
            (
                r#"{"num_train_timesteps": 0}"#,
                "`num_train_timesteps` is 0",
            ),
            (
                r#"{"use_karras_sigmas": false}"#,
                "`use_karras_sigmas` = false",
            ),
            (r#"{"rescale_betas_zero_snr": true}"#, "velocity"),
            (r#"{"trained_betas": [0.1]}"#, "1 entries"),
        ] {
            let message = SchedulerConfig::from_json(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(message.ends_with('.'), "{message}");
        }
    }

    #[test]
    fn what_diffusers_cannot_say_is_not_written() {
        let mut config = SchedulerConfig::default();
        config.levels.spacing = Spacing::Quadratic;
        assert!(
            config
                .to_json()
                .unwrap_err()
                .to_string()
                .contains("quadratic")
        );
        config.levels = LevelOptions {
            final_level: FinalLevel::First,
            ..Default::default()
        };
        config.to_json().unwrap();
        config.sampler = Sampler::Ddpm {
            variance: Variance::Small,
        };
        assert!(config.to_json().is_err());
    }
}
