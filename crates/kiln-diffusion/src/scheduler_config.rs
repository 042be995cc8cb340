//! diffusers' `scheduler_config.json`, read and written.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::sampler::Sampler;
use crate::schedule_config::{BETA_END, BETA_START};
use crate::scheduler_class::{SchedulerClass, write_class};
use crate::{
    Clip, DiffusionError, LevelOptions, Prediction, Schedule, ScheduleConfig, ScheduleKind,
};

/// The release of diffusers whose numbers and keys these are.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// How a model was trained to denoise and is meant to be sampled: what diffusers keeps in
/// `scheduler/scheduler_config.json`.
///
/// | class | sampler |
/// | --- | --- |
/// | `DDIMScheduler` | `ddim` |
/// | `DDPMScheduler` | `ddpm` |
/// | `PNDMScheduler` with `skip_prk_steps` | `pndm` |
/// | `EulerDiscreteScheduler` | `euler` |
/// | `EulerAncestralDiscreteScheduler` (read only) | `ddim` with `eta` = 1 |
/// | `HeunDiscreteScheduler` | `heun` |
/// | `DPMSolverMultistepScheduler`, `dpmsolver++` or `sde-dpmsolver++` | `dpm-solver` with `eta` = 0 or 1 |
/// | `UniPCMultistepScheduler` | `unipc` |
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulerConfig {
    /// The noise at each timestep.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Keeps the estimated z0 in the data's range.
    pub clip: Option<Clip>,
    /// Which timesteps are visited and where the walk ends.
    pub levels: LevelOptions,
    /// The class of the scheduler. The file has no place for DDIM's `eta` and for churn, which Python
    /// passes when it samples: they read as 0. Nor has it one for the [`StepGrid`](crate::StepGrid), which goes with the class.
    pub sampler: Sampler,
}

impl SchedulerConfig {
    /// Reads the JSON text of one of these classes; absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// Text that is not such a file, an option that is not available here (named, with its value),
    /// and whatever [`ScheduleConfig::validate`] and [`Prediction::validate`] refuse.
    pub fn from_json(text: &str) -> Result<Self, DiffusionError> {
        // Python writes the infinity of `lambda_min_clipped`, which means that nothing is clipped, in
        // a way that JSON does not have.
        let fields = serde_json::from_str(&text.replace("-Infinity", "null"))
            .map_err(|error| DiffusionError::SchedulerJson(error.to_string()))?;
        let mut fields = Fields(fields);

        let class = SchedulerClass::take(&mut fields)?;
        let config = Self {
            sampler: class.take_sampler(&mut fields)?,
            clip: class.take_clip(&mut fields)?,
            levels: class.take_levels(&mut fields)?,
            schedule: fields.take_schedule()?,
            prediction: fields.take_prediction()?,
        };
        fields.finish()?;
        config
            .prediction
            .validate(&Schedule::new(config.schedule.clone())?)?;
        Ok(config)
    }

    /// The class of diffusers' that [`Self::to_json`] writes.
    ///
    /// # Errors
    /// A sampler that diffusers has no class for.
    pub fn class_name(&self) -> Result<&'static str, DiffusionError> {
        Ok(SchedulerClass::of(self.sampler)?.name())
    }

    /// The JSON text that Python loads with `from_pretrained` of the class for the sampler.
    ///
    /// A schedule that diffusers has no name for is written as the `trained_betas` that lead through
    /// its whole timesteps. That says all of a discrete schedule; a continuous one reads back as
    /// discrete, which is the same wherever a sampler that walks whole timesteps looks.
    /// [`Prediction::Flow`] is written under our name: diffusers loads such a file, and refuses to
    /// sample with it.
    ///
    /// # Errors
    /// Settings that diffusers has no word for, such as [`Spacing::Quadratic`](crate::Spacing), or
    /// Adams-Bashforth methods.
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
        });
        write_class(&mut fields, self.sampler, self.levels, self.clip)?;
        Ok(format!("{fields:#}\n"))
    }
}

/// The file's keys, taken out one by one so that whatever is left over can be refused by name.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Takes `key` out; absent or null is `default`.
    pub(crate) fn take<T: DeserializeOwned>(
        &mut self,
        key: &str,
        default: T,
    ) -> Result<T, DiffusionError> {
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

    /// Takes `key` out and refuses any value but diffusers' default.
    pub(crate) fn require(&mut self, key: &str, default: Value) -> Result<(), DiffusionError> {
        let value = self.take(key, default.clone())?;
        if value == default {
            Ok(())
        } else {
            refuse(key, value, "only diffusers' default is available")
        }
    }

    /// Whether `key` has this value.
    pub(crate) fn says(&self, key: &str, value: Value) -> bool {
        self.0.get(key) == Some(&value)
    }

    /// Puts in a default that differs from the other classes'.
    pub(crate) fn default(&mut self, key: &str, value: Value) {
        self.0.entry(key).or_insert(value);
    }

    /// Reads `from`, other classes' words in `key`, as `to`.
    pub(crate) fn replace(&mut self, key: &str, from: &[&str], to: &str) {
        if let Some(value) = self.0.get_mut(key)
            && value.as_str().is_some_and(|word| from.contains(&word))
        {
            *value = to.into();
        }
    }

    /// Takes keys out whose values make no difference.
    pub(crate) fn pass_over(&mut self, makes_no_difference: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| !makes_no_difference(key));
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

pub(crate) fn refuse<T>(
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
    use crate::sampler::Variance;
    use crate::{FinalLevel, Spacing, StepGrid};

    #[test]
    fn an_empty_file_has_diffusers_defaults() {
        let read = SchedulerConfig::from_json("{}").unwrap();
        assert_eq!(
            read,
            SchedulerConfig {
                clip: Some(Clip::Range(1.0)),
                ..Default::default()
            }
        );
    }

    /// Every combination of settings: what can be written reads back, and the others are refused.
    #[test]
    fn everything_that_can_be_written_reads_back() {
        let dynamic = Clip::Dynamic {
            quantile: 0.9,
            maximum: 2.0,
        };
        let (mut written, mut refused) = (0, 0);
        for sampler in samplers() {
            for spacing in Spacing::ALL {
                for clip in [None, Some(Clip::Range(1.5)), Some(dynamic)] {
                    for final_level in [FinalLevel::Clean, FinalLevel::First] {
                        for zero_terminal_snr in [false, true] {
                            let config = SchedulerConfig {
                                schedule: ScheduleConfig {
                                    zero_terminal_snr,
                                    ..Default::default()
                                },
                                prediction: Prediction::Velocity,
                                clip,
                                levels: LevelOptions {
                                    spacing,
                                    steps_offset: 1,
                                    final_level,
                                    grid: grid(sampler),
                                },
                                sampler,
                            };
                            match config.to_json() {
                                Ok(json) => {
                                    assert_eq!(SchedulerConfig::from_json(&json), Ok(config));
                                    written += 1;
                                }
                                Err(error) => {
                                    assert!(matches!(error, DiffusionError::NotInDiffusers(_)));
                                    refused += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
        assert_eq!((written, refused), (208, 728));
    }

    /// That of the sampler's class.
    fn grid(sampler: Sampler) -> StepGrid {
        SchedulerClass::of(sampler).map_or(StepGrid::default(), |class| class.grid)
    }

    /// All samplers, and the settings that diffusers distinguishes.
    fn samplers() -> Vec<Sampler> {
        let large = Variance::Large;
        let further = [
            Sampler::Ddpm { variance: large },
            Sampler::Ddim {
                eta: 0.0,
                variance: large,
            },
            Sampler::DpmSolver { eta: 1.0 },
            Sampler::DpmSolver { eta: 0.5 },
        ];
        Sampler::ALL.into_iter().chain(further).collect()
    }

    #[test]
    fn every_schedule_and_prediction_reads_back() {
        for kind in [
            ScheduleKind::Linear,
            ScheduleKind::ScaledLinear,
            ScheduleKind::Cosine,
            ScheduleKind::Betas,
        ] {
            let has_range = kind.keys().contains(&"beta_start");
            for prediction in Prediction::ALL {
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
                    ..Default::default()
                };
                assert_eq!(
                    SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap(),
                    config
                );
            }
        }
    }

    /// What Stable Diffusion's repository has, and what Python writes for DPM-Solver++.
    #[test]
    fn files_of_other_classes_are_read() {
        let stable_diffusion = r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
            "clip_sample": false}"#;
        let read = SchedulerConfig::from_json(stable_diffusion).unwrap();
        assert_eq!((read.sampler, read.clip), (Sampler::Pndm, None));
        assert_eq!(
            read.levels,
            LevelOptions {
                spacing: Spacing::Leading,
                steps_offset: 1,
                final_level: FinalLevel::First,
                grid: StepGrid::Whole,
            }
        );
        let dpm_solver = r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
            "lambda_min_clipped": -Infinity, "use_karras_sigmas": true, "solver_order": 2, "variance_type": null,
            "thresholding": true, "sample_max_value": 1.5}"#;
        let read = SchedulerConfig::from_json(dpm_solver).unwrap();
        assert_eq!(read.sampler, Sampler::DpmSolver { eta: 1.0 });
        assert_eq!(read.levels.spacing, Spacing::Karras);
        assert_eq!(read.levels.grid, StepGrid::OneMore);
        let threshold = Clip::Dynamic {
            quantile: 0.995,
            maximum: 1.5,
        };
        assert_eq!(read.clip, Some(threshold));
        let ancestral = r#"{"_class_name": "EulerAncestralDiscreteScheduler"}"#;
        let read = SchedulerConfig::from_json(ancestral).unwrap();
        assert!(matches!(read.sampler, Sampler::Ddim { eta: 1.0, .. }));
        assert_eq!(read.levels.spacing, Spacing::Linspace);
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
                r#"{"_class_name": "LCMScheduler"}"#,
                "`_class_name` = \"LCMScheduler\"",
            ),
            (
                r#"{"_class_name": "PNDMScheduler"}"#,
                "`skip_prk_steps` = false",
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#,
                "`solver_order` = 3",
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}"#,
                "`algorithm_type` = \"dpmsolver\"",
            ),
            (
                r#"{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true}"#,
                "`use_flow_sigmas` = true",
            ),
            (
                r#"{"_class_name": "UniPCMultistepScheduler", "final_sigmas_type": "sigma_min"}"#,
                "`final_sigmas_type` = \"sigma_min\"",
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min", "euler_at_final": true}"#,
                "`euler_at_final` = true",
            ),
            (
                r#"{"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "use_karras_sigmas": true}"#,
                "`use_karras_sigmas` = true",
            ),
            (
                r#"{"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "half"}"#,
                "`final_sigmas_type` = \"half\"",
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
            (
                r#"{"thresholding": true, "sample_max_value": 0.5}"#,
                "maximum 0.5",
            ),
            (
                r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#,
                "learned_range",
            ),
            (r#"{"clip_sample_range": 0}"#, "`clip` is 0"),
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
            (r#"{"use_karras": false}"#, "`use_karras` = false"),
            (
                r#"{"_class_name": "EulerDiscreteScheduler", "sigma_max": 80.0}"#,
                "`sigma_max` = 80",
            ),
            (
                r#"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"}"#,
                "learned_range",
            ),
            (r#"{"rescale_betas_zero_snr": true}"#, "velocity"),
            (r#"{"trained_betas": [0.1]}"#, "1 entries"),
        ] {
            let message = SchedulerConfig::from_json(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(message.ends_with('.'), "{message}");
        }
    }
}
