//! diffusers' `scheduler_config.json`, read and written.

use serde_json::json;

use super::class::{SchedulerClass, write_class};
use super::fields::{Fields, refuse};
use crate::sampler::Sampler;
use crate::schedule::{BetaRange, ListedBetas};
use crate::{
    Clip, DiffusionError, LevelOptions, Prediction, Schedule, ScheduleConfig, ScheduleKind,
};

/// The release of diffusers whose numbers and keys we follow.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// How a model was trained to denoise and how to sample from it: the contents of diffusers'
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
/// | `LCMScheduler` with `original_inference_steps` = `num_train_timesteps` | `consistency` |
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulerConfig {
    /// The noise at each timestep.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Keeps the estimated z0 in the data's range.
    pub clip: Option<Clip>,
    /// The timesteps that the walk visits, and where it ends.
    pub levels: LevelOptions,
    /// The class of the scheduler. The file has no keys for DDIM's `eta` and for churn, which Python passes when it
    /// samples: they read as 0. It has no key for the [`StepGrid`](crate::StepGrid) either, which depends on the class.
    pub sampler: Sampler,
}

impl SchedulerConfig {
    /// Reads the JSON text of one of these classes; absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// Text that is not such a file, an option that is not available here (with its name and value), and whatever
    /// [`ScheduleConfig::validate`] and [`Prediction::validate`] refuse.
    pub fn from_json(text: &str) -> Result<Self, DiffusionError> {
        let mut fields = Fields::parse(text)?;
        let class = SchedulerClass::take(&mut fields)?;
        let config = Self {
            sampler: class.take_sampler(&mut fields)?,
            clip: class.take_clip(&mut fields)?,
            levels: class.take_levels(&mut fields)?,
            schedule: take_schedule(&mut fields)?,
            prediction: take_prediction(&mut fields)?,
        };
        fields.finish()?;
        config
            .prediction
            .validate(&Schedule::new(config.schedule.clone())?)?;
        Ok(config)
    }

    /// The diffusers class that [`Self::to_json`] writes.
    ///
    /// # Errors
    /// A sampler that diffusers has no class for.
    pub fn class_name(&self) -> Result<&'static str, DiffusionError> {
        Ok(SchedulerClass::of(self.sampler)?.name())
    }

    /// The JSON text that Python loads with `from_pretrained` of the class for the sampler.
    ///
    /// A schedule that diffusers has no name for is written as `trained_betas`, the betas between its whole timesteps.
    /// These describe a discrete schedule completely. A continuous one reads back as discrete, which is the same for a
    /// sampler that visits only whole timesteps. [`Prediction::Flow`] is written under our name: diffusers loads such a
    /// file, but refuses to sample with it.
    ///
    /// # Errors
    /// Settings that diffusers has no name for, such as [`Spacing::Quadratic`](crate::Spacing), or Adams-Bashforth
    /// methods.
    pub fn to_json(&self) -> Result<String, DiffusionError> {
        let schedule = &self.schedule;
        let (beta_schedule, range) = match &schedule.kind {
            ScheduleKind::Linear(range) => (Some("linear"), Some(range)),
            ScheduleKind::ScaledLinear(range) => (Some("scaled_linear"), Some(range)),
            ScheduleKind::Cosine => (Some("squaredcos_cap_v2"), None),
            // Only some of diffusers' classes know `sigmoid`; all know a list of betas.
            ScheduleKind::SigmoidBetas(range) => (None, Some(range)),
            _ => (None, None),
        };
        let beta_schedule = beta_schedule.filter(|_| !schedule.continuous);
        // Files have a range of betas whether or not it is used.
        let range = range.unwrap_or(&BetaRange::DEFAULT);
        let (beta_start, beta_end) = range.scaled(schedule.num_train_timesteps);
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

/// Takes the keys about the schedule.
fn take_schedule(fields: &mut Fields) -> Result<ScheduleConfig, DiffusionError> {
    let betas: Option<Vec<f64>> = fields.take("trained_betas", None)?;
    let name: String = fields.take("beta_schedule", "linear".to_owned())?;
    let range = BetaRange {
        beta_start: fields.take("beta_start", BetaRange::DEFAULT.beta_start)?,
        beta_end: fields.take("beta_end", BetaRange::DEFAULT.beta_end)?,
        scale_betas: false,
    };
    let kind = match (betas, name.as_str()) {
        // As in diffusers, a list of betas takes precedence over the name.
        (Some(betas), _) => ScheduleKind::Betas(ListedBetas { betas }),
        (None, "linear") => ScheduleKind::Linear(range),
        (None, "scaled_linear") => ScheduleKind::ScaledLinear(range),
        (None, "squaredcos_cap_v2") => ScheduleKind::Cosine,
        (None, "sigmoid") => ScheduleKind::SigmoidBetas(range),
        _ => {
            return refuse(
                "beta_schedule",
                name,
                "use linear, scaled_linear, squaredcos_cap_v2, sigmoid or `trained_betas`",
            );
        }
    };
    let default = ScheduleConfig::of(kind);
    Ok(ScheduleConfig {
        num_train_timesteps: fields.take("num_train_timesteps", default.num_train_timesteps)?,
        zero_terminal_snr: fields.take("rescale_betas_zero_snr", false)?,
        ..default
    })
}

/// Takes the key about the prediction.
fn take_prediction(fields: &mut Fields) -> Result<Prediction, DiffusionError> {
    let name: String = fields.take("prediction_type", "epsilon".to_owned())?;
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

/// The betas from each whole timestep to the next, before the rescaling to zero terminal SNR, which has its own key in
/// the file.
fn listed_betas(schedule: &ScheduleConfig) -> Result<Vec<f64>, DiffusionError> {
    let schedule = ScheduleConfig {
        zero_terminal_snr: false,
        ..schedule.clone()
    };
    match schedule.kind {
        ScheduleKind::Betas(listed) => Ok(listed.betas),
        _ => Ok(Schedule::new(schedule)?.step_betas()),
    }
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

    /// Every combination of settings is either written and read back, or refused.
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
        assert_eq!((written, refused), (214, 794));
    }

    /// The grid of the sampler's class.
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

    fn listed(betas: Vec<f64>) -> ScheduleKind {
        ScheduleKind::Betas(ListedBetas { betas })
    }

    #[test]
    fn every_schedule_and_prediction_reads_back() {
        let range = BetaRange {
            beta_start: 1e-3,
            beta_end: 0.3,
            scale_betas: false,
        };
        for kind in [
            ScheduleKind::Linear(range),
            ScheduleKind::ScaledLinear(range),
            ScheduleKind::Cosine,
            listed(vec![0.1, 0.25, 0.5]),
        ] {
            for prediction in Prediction::ALL {
                let config = SchedulerConfig {
                    schedule: ScheduleConfig {
                        num_train_timesteps: 3,
                        zero_terminal_snr: prediction != Prediction::Noise,
                        ..ScheduleConfig::of(kind.clone())
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

    /// The file in Stable Diffusion's repository, and the one that Python writes for DPM-Solver++.
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
        let scaled = ScheduleKind::Linear(BetaRange {
            scale_betas: true,
            ..BetaRange::DEFAULT
        });
        let schedule = ScheduleConfig {
            num_train_timesteps: 200,
            ..ScheduleConfig::of(scaled)
        };
        let config = SchedulerConfig {
            schedule: schedule.clone(),
            ..Default::default()
        };
        let read = SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap();
        let range = read.schedule.kind.beta_range().unwrap();
        assert!(!range.scale_betas);
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
                    let name = kind.name();
                    let (kind, continuous) = match &kind {
                        ScheduleKind::Betas(_) => (listed(vec![0.1; 50]), false),
                        kind => (kind.clone(), continuous),
                    };
                    let schedule = ScheduleConfig {
                        kind,
                        num_train_timesteps: 50,
                        continuous,
                        zero_terminal_snr,
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
                        assert!(apart < 1e-12, "{name} {timestep}: {apart:e}");
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
                r#"{"_class_name": "TCDScheduler"}"#,
                "`_class_name` = \"TCDScheduler\"",
            ),
            (
                r#"{"_class_name": "LCMScheduler"}"#,
                "`original_inference_steps` = 50",
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
