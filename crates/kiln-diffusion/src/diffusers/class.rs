//! The classes of diffusers' schedulers: the sampler that each stands for, and the keys that belong to it.

use serde_json::{Value, json};

use super::fields::{Fields, refuse};
use crate::sampler::{Churn, Sampler, Variance};
use crate::{Clip, DiffusionError, FinalLevel, LevelOptions, Spacing, StepGrid};

/// A class of diffusers' schedulers, and its keys.
#[derive(Debug)]
pub(super) struct SchedulerClass {
    name: &'static str,
    /// The keys that it has besides [`KEYS_OF_ALL`].
    keys: &'static [&'static [&'static str]],
    /// `timestep_spacing` if the file has none.
    spacing: &'static str,
    /// `clip_sample` if the file has none.
    clips: bool,
    /// The grid of its leading and linspaced timesteps.
    pub(super) grid: StepGrid,
    ends: Ends,
}

/// How a class chooses where the walk ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// It always ends clean.
    Clean,
    /// By `set_alpha_to_one`, which has this default.
    Alpha(bool),
    /// By `final_sigmas_type`.
    Sigma,
}

const DDIM: SchedulerClass = SchedulerClass {
    name: "DDIMScheduler",
    keys: &[CLIPPING, THRESHOLDING, RESCALING, &["set_alpha_to_one"]],
    spacing: "leading",
    clips: true,
    grid: StepGrid::Whole,
    ends: Ends::Alpha(true),
};
const DDPM: SchedulerClass = SchedulerClass {
    name: "DDPMScheduler",
    keys: &[CLIPPING, THRESHOLDING, RESCALING, &["variance_type"]],
    ends: Ends::Clean,
    ..DDIM
};
const PNDM: SchedulerClass = SchedulerClass {
    name: "PNDMScheduler",
    keys: &[&["skip_prk_steps", "set_alpha_to_one"]],
    clips: false,
    ends: Ends::Alpha(false),
    ..DDIM
};
const EULER: SchedulerClass = SchedulerClass {
    name: "EulerDiscreteScheduler",
    keys: &[
        SIGMAS,
        RESCALING,
        &["final_sigmas_type", "interpolation_type", "timestep_type"],
        &["sigma_min", "sigma_max"],
    ],
    spacing: "linspace",
    clips: false,
    grid: StepGrid::Fractional,
    ends: Ends::Sigma,
};
const EULER_ANCESTRAL: SchedulerClass = SchedulerClass {
    name: "EulerAncestralDiscreteScheduler",
    keys: &[RESCALING],
    ends: Ends::Clean,
    ..EULER
};
const HEUN: SchedulerClass = SchedulerClass {
    name: "HeunDiscreteScheduler",
    keys: &[SIGMAS, CLIPPING],
    ends: Ends::Clean,
    ..EULER
};
const DPM_SOLVER: SchedulerClass = SchedulerClass {
    name: "DPMSolverMultistepScheduler",
    keys: &[
        SIGMAS,
        FLOW,
        THRESHOLDING,
        RESCALING,
        &["use_lu_lambdas", "final_sigmas_type", "lambda_min_clipped"],
        &["solver_order", "solver_type", "algorithm_type"],
        &["lower_order_final", "euler_at_final", "variance_type"],
    ],
    grid: StepGrid::OneMore,
    ..EULER
};
const UNIPC: SchedulerClass = SchedulerClass {
    name: "UniPCMultistepScheduler",
    keys: &[
        SIGMAS,
        FLOW,
        THRESHOLDING,
        RESCALING,
        &["solver_order", "solver_type", "solver_p", "predict_x0"],
        &["lower_order_final", "disable_corrector"],
        &[
            "final_sigmas_type",
            "sigma_min",
            "sigma_max",
            "shift_terminal",
        ],
    ],
    // Its last step has a lower order, which changes nothing only if that step leads to the clean image.
    ends: Ends::Clean,
    ..DPM_SOLVER
};
const LCM: SchedulerClass = SchedulerClass {
    name: "LCMScheduler",
    keys: &[
        CLIPPING,
        THRESHOLDING,
        RESCALING,
        &[
            "set_alpha_to_one",
            "original_inference_steps",
            "timestep_scaling",
        ],
    ],
    spacing: "trailing",
    clips: false,
    ends: Ends::Clean,
    ..DDIM
};

/// The keys of every class here.
const KEYS_OF_ALL: &[&str] = &[
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
];
const CLIPPING: &[&str] = &["clip_sample", "clip_sample_range"];
const THRESHOLDING: &[&str] = &[
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
];
const RESCALING: &[&str] = &["rescale_betas_zero_snr"];
const SIGMAS: &[&str] = &[
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
];
const FLOW: &[&str] = &[
    "use_flow_sigmas",
    "flow_shift",
    "use_dynamic_shifting",
    "time_shift_type",
];

/// Further keys of diffusers' other classes for such schedules, and `tensor_format`, which in diffusers' first months
/// named Python's tensor library.
const KEYS_OF_OTHERS: &[&str] = &[
    "correct_sampling",
    "corrector_order",
    "eta",
    "predictor_order",
    "rho",
    "s_noise",
    "sigma_data",
    "sigma_schedule",
    "snr_shift_scale",
    "tau_func",
    "tensor_format",
];

impl SchedulerClass {
    /// Its name in diffusers.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    const ALL: [Self; 9] = [
        DDIM,
        DDPM,
        PNDM,
        EULER,
        EULER_ANCESTRAL,
        HEUN,
        DPM_SOLVER,
        UNIPC,
        LCM,
    ];

    fn has(&self, key: &str) -> bool {
        KEYS_OF_ALL.contains(&key) || self.keys.iter().any(|keys| keys.contains(&key))
    }

    /// The class that a file names, or DDIM if it names no class. Removes the keys that only other classes have:
    /// Python's `from_config` leaves them in the file, where they mean nothing.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, DiffusionError> {
        let name: String = fields.take("_class_name", DDIM.name.to_owned())?;
        match Self::ALL.into_iter().find(|class| class.name == name) {
            Some(class) => {
                let of_others = |key: &str| {
                    KEYS_OF_OTHERS.contains(&key) || Self::ALL.iter().any(|other| other.has(key))
                };
                fields.pass_over(|key| !class.has(key) && of_others(key));
                Ok(class)
            }
            None => refuse(
                "_class_name",
                name,
                "use a DDIM, DDPM, PNDM, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, DPMSolverMultistep, UniPCMultistep or LCM scheduler",
            ),
        }
    }

    /// Takes the sampler that this class stands for, and refuses its variants that are not available here.
    pub(super) fn take_sampler(&self, fields: &mut Fields) -> Result<Sampler, DiffusionError> {
        let sampler = match self.name {
            "DDPMScheduler" => {
                let name: String = fields.take("variance_type", "fixed_small".to_owned())?;
                Sampler::Ddpm {
                    variance: read_variance(&name)?,
                }
            }
            "PNDMScheduler" => {
                if !fields.take("skip_prk_steps", false)? {
                    let advice =
                        "the Runge-Kutta steps at the beginning are not available, set it to true";
                    return refuse("skip_prk_steps", false, advice);
                }
                Sampler::Pndm
            }
            "EulerDiscreteScheduler" => {
                fields.require("interpolation_type", json!("linear"))?;
                fields.require("timestep_type", json!("discrete"))?;
                fields.require("sigma_min", Value::Null)?;
                fields.require("sigma_max", Value::Null)?;
                Sampler::Euler { churn: Churn::NONE }
            }
            // Its noise is the same as DDIM's with eta = 1.
            "EulerAncestralDiscreteScheduler" => Sampler::Ddim {
                eta: 1.0,
                variance: Variance::Small,
            },
            "HeunDiscreteScheduler" => {
                // Only this class has Stable Diffusion's betas by default.
                fields.default("beta_start", json!(0.00085));
                fields.default("beta_end", json!(0.012));
                Sampler::Heun { churn: Churn::NONE }
            }
            "DPMSolverMultistepScheduler" => {
                fields.require("solver_order", json!(2))?;
                // diffusers replaces the types of UniPC and DEIS, and the algorithm of DEIS, by this class's defaults.
                fields.replace("solver_type", &["bh1", "bh2", "logrho"], "midpoint");
                fields.require("solver_type", json!("midpoint"))?;
                fields.replace("algorithm_type", &["deis"], "dpmsolver++");
                // DDPM's other variances have no meaning here.
                let variance: String = fields.take("variance_type", String::new())?;
                if variance.starts_with("learned") {
                    let advice = "a network that predicts variances, too, is not available";
                    return refuse("variance_type", variance, advice);
                }
                fields.require("lambda_min_clipped", Value::Null)?;
                // Both lower the order of a last step that is Euler's anyway, because it ends clean.
                if fields.says("final_sigmas_type", json!("sigma_min")) {
                    fields.require("euler_at_final", json!(false))?;
                }
                fields.pass_over(|key| matches!(key, "lower_order_final" | "euler_at_final"));
                let algorithm: String = fields.take("algorithm_type", "dpmsolver++".to_owned())?;
                match algorithm.as_str() {
                    "dpmsolver++" => Sampler::DpmSolver { eta: 0.0 },
                    "sde-dpmsolver++" => Sampler::DpmSolver { eta: 1.0 },
                    _ => {
                        let advice = "use dpmsolver++ or sde-dpmsolver++";
                        return refuse("algorithm_type", algorithm, advice);
                    }
                }
            }
            "UniPCMultistepScheduler" => {
                fields.require("solver_order", json!(2))?;
                // As above, for the types of DPM-Solver++ and DEIS.
                fields.replace("solver_type", &["midpoint", "heun", "logrho"], "bh2");
                fields.require("solver_type", json!("bh2"))?;
                fields.require("predict_x0", json!(true))?;
                fields.require("lower_order_final", json!(true))?;
                fields.require("disable_corrector", json!([]))?;
                fields.require("final_sigmas_type", json!("zero"))?;
                fields.require("sigma_min", Value::Null)?;
                fields.require("sigma_max", Value::Null)?;
                fields.require("shift_terminal", Value::Null)?;
                Sampler::UniPc
            }
            "LCMScheduler" => {
                // Like Heun's class, this one has Stable Diffusion's betas by default.
                fields.default("beta_start", json!(0.00085));
                fields.default("beta_end", json!(0.012));
                fields.default("beta_schedule", json!("scaled_linear"));
                // Its timesteps are every so many of all, whatever their spacing is called: the trailing ones.
                fields.pass_over(|key| matches!(key, "timestep_spacing" | "set_alpha_to_one"));
                let all = fields.take("num_train_timesteps", 1000)?;
                fields.default("num_train_timesteps", all.into());
                let original: usize = fields.take("original_inference_steps", 50)?;
                if original != all {
                    let advice = "set it to the number of training timesteps, so that all of them can be visited";
                    return refuse("original_inference_steps", original, advice);
                }
                // A smaller number mixes zt into the clean image.
                fields.require("timestep_scaling", json!(10.0))?;
                Sampler::Consistency { segments: 1 }
            }
            _ => Sampler::default(),
        };
        fields.require("use_beta_sigmas", json!(false))?;
        fields.require("use_flow_sigmas", json!(false))?;
        fields.require("use_dynamic_shifting", json!(false))?;
        // These are options of a feature that is off.
        fields.pass_over(|key| matches!(key, "flow_shift" | "time_shift_type"));
        Ok(sampler)
    }

    /// Takes the keys about clipping.
    pub(super) fn take_clip(&self, fields: &mut Fields) -> Result<Option<Clip>, DiffusionError> {
        let clips = fields.take("clip_sample", self.clips)?;
        let range = fields.take("clip_sample_range", 1.0)?;
        let thresholds = fields.take("thresholding", false)?;
        let quantile = fields.take("dynamic_thresholding_ratio", 0.995)?;
        let maximum = fields.take("sample_max_value", 1.0)?;
        let clip = if thresholds {
            Some(Clip::Dynamic { quantile, maximum })
        } else {
            clips.then_some(Clip::Range(range))
        };
        clip.map_or(Ok(()), Clip::validate)?;
        Ok(clip)
    }

    /// Takes the keys about which timesteps are visited and where the walk ends.
    pub(super) fn take_levels(&self, fields: &mut Fields) -> Result<LevelOptions, DiffusionError> {
        let spacing: String = fields.take("timestep_spacing", self.spacing.to_owned())?;
        let mut spacing = match spacing.as_str() {
            "leading" => Spacing::Leading,
            "linspace" => Spacing::Linspace,
            "trailing" => Spacing::Trailing,
            _ => {
                let advice = "use leading, linspace or trailing";
                return refuse("timestep_spacing", spacing, advice);
            }
        };
        // These take precedence over the spacing of the timesteps.
        let of_timesteps = spacing;
        for (key, of_sigmas) in [
            ("use_karras_sigmas", Spacing::Karras),
            ("use_exponential_sigmas", Spacing::LogSnr),
            ("use_lu_lambdas", Spacing::LogSnr),
        ] {
            if fields.take(key, false)? {
                // Euler's and Heun's classes apply these spacings between the ends of the timesteps.
                if self.grid == StepGrid::Fractional && of_timesteps != Spacing::Linspace {
                    let advice = "with `timestep_spacing` other than linspace, set it to false";
                    return refuse(key, true, advice);
                }
                spacing = of_sigmas;
            }
        }
        let final_level = match self.ends {
            Ends::Clean => FinalLevel::Clean,
            Ends::Alpha(default) => match fields.take("set_alpha_to_one", default)? {
                true => FinalLevel::Clean,
                false => FinalLevel::First,
            },
            Ends::Sigma => {
                let name: String = fields.take("final_sigmas_type", "zero".to_owned())?;
                match name.as_str() {
                    "zero" => FinalLevel::Clean,
                    "sigma_min" => FinalLevel::First,
                    _ => return refuse("final_sigmas_type", name, "use zero or sigma_min"),
                }
            }
        };
        Ok(LevelOptions {
            spacing,
            steps_offset: fields.take("steps_offset", 0)?,
            final_level,
            grid: self.grid,
        })
    }

    /// The class that stands for `sampler`. The file has no keys for `eta` and churn, which Python passes when it
    /// samples.
    pub(super) fn of(sampler: Sampler) -> Result<Self, DiffusionError> {
        let missing = match sampler {
            Sampler::Ddim {
                variance: Variance::Small,
                ..
            } => return Ok(DDIM),
            Sampler::Ddpm { .. } => return Ok(DDPM),
            Sampler::Euler { .. } => return Ok(EULER),
            Sampler::Heun { churn } if churn.amount == 0.0 => return Ok(HEUN),
            Sampler::Pndm => return Ok(PNDM),
            Sampler::DpmSolver { eta } if eta == 0.0 || eta == 1.0 => return Ok(DPM_SOLVER),
            Sampler::UniPc => return Ok(UNIPC),
            Sampler::Consistency { segments: 1 } => return Ok(LCM),
            // In as many steps as segments the two are the same.
            Sampler::Consistency { .. } => return Ok(DDIM),
            Sampler::Ddim { .. } => "DDIM with the large variance",
            Sampler::Heun { .. } => "Heun's method with churn",
            Sampler::DpmSolver { .. } => "DPM-Solver++ with an `eta` other than 0 and 1",
            Sampler::SecondOrder { .. } => "second-order method with an `alpha`",
            Sampler::AdamsBashforth { .. } => "Adams-Bashforth method",
        };
        Err(DiffusionError::NotInDiffusers(missing))
    }
}

/// Adds the keys about the sampler, the levels and the clipping to `fields`, which has the keys about the schedule.
pub(super) fn write_class(
    fields: &mut Value,
    sampler: Sampler,
    levels: LevelOptions,
    clip: Option<Clip>,
) -> Result<(), DiffusionError> {
    let class = SchedulerClass::of(sampler)?;
    let not_in_diffusers = |missing| Err(DiffusionError::NotInDiffusers(missing));
    fields["_class_name"] = class.name.into();
    match sampler {
        Sampler::Ddpm { variance } => {
            fields["variance_type"] = match variance {
                Variance::Small => "fixed_small".into(),
                Variance::Large => "fixed_large".into(),
            };
        }
        Sampler::Pndm => fields["skip_prk_steps"] = true.into(),
        Sampler::DpmSolver { eta } => {
            let stochastic = if eta == 0.0 { "" } else { "sde-" };
            fields["algorithm_type"] = format!("{stochastic}dpmsolver++").into();
            fields["solver_order"] = 2.into();
        }
        Sampler::UniPc => {
            fields["solver_order"] = 2.into();
            fields["solver_type"] = "bh2".into();
        }
        Sampler::Consistency { .. } if levels.spacing != Spacing::Trailing => {
            return not_in_diffusers("a spacing other than trailing with `consistency`");
        }
        Sampler::Consistency { segments: 1 } => {
            fields["original_inference_steps"] = fields["num_train_timesteps"].clone();
            fields["timestep_scaling"] = 10.0.into();
        }
        Sampler::Ddim { .. }
        | Sampler::Consistency { .. }
        | Sampler::Euler { .. }
        | Sampler::Heun { .. }
        | Sampler::SecondOrder { .. }
        | Sampler::AdamsBashforth { .. } => (),
    }

    let spacing = match levels.spacing {
        Spacing::Leading => "leading",
        Spacing::Linspace => "linspace",
        Spacing::Trailing => "trailing",
        Spacing::Quadratic => return not_in_diffusers("quadratic spacing"),
        Spacing::Karras | Spacing::LogSnr if !class.has("use_karras_sigmas") => {
            return not_in_diffusers(
                "spacing by sigma with DDIM, DDPM and PNDM (but with `euler`, `heun`, `dpm-solver` and `unipc`)",
            );
        }
        // From the first timestep to the last, like our spacings.
        Spacing::Karras | Spacing::LogSnr => "linspace",
    };
    fields["timestep_spacing"] = spacing.into();
    fields["steps_offset"] = levels.steps_offset.into();
    if class.has("use_karras_sigmas") {
        fields["use_karras_sigmas"] = (levels.spacing == Spacing::Karras).into();
        fields["use_exponential_sigmas"] = (levels.spacing == Spacing::LogSnr).into();
    }
    match (class.ends, levels.final_level) {
        (Ends::Clean, FinalLevel::Clean) => (),
        (Ends::Clean, FinalLevel::First) => {
            return not_in_diffusers(
                "DDPM, Heun's method, UniPC or `consistency` that ends at timestep 0 instead of the clean image",
            );
        }
        (Ends::Alpha(_), end) => fields["set_alpha_to_one"] = (end == FinalLevel::Clean).into(),
        (Ends::Sigma, FinalLevel::Clean) => fields["final_sigmas_type"] = "zero".into(),
        (Ends::Sigma, FinalLevel::First) => fields["final_sigmas_type"] = "sigma_min".into(),
    }

    match clip {
        Some(Clip::Range(range)) if class.has("clip_sample") => {
            fields["clip_sample"] = true.into();
            fields["clip_sample_range"] = range.into();
        }
        Some(Clip::Range(_)) => {
            return not_in_diffusers(
                "clipping to a range with `euler`, `pndm`, `dpm-solver` and `unipc`",
            );
        }
        Some(Clip::Dynamic { quantile, maximum }) if class.has("thresholding") => {
            fields["thresholding"] = true.into();
            fields["dynamic_thresholding_ratio"] = quantile.into();
            fields["sample_max_value"] = maximum.into();
        }
        Some(Clip::Dynamic { .. }) => {
            return not_in_diffusers("dynamic thresholding with `euler`, `heun` and `pndm`");
        }
        None if class.has("clip_sample") => fields["clip_sample"] = false.into(),
        None => (),
    }

    if !class.has("rescale_betas_zero_snr")
        && let Some(fields) = fields.as_object_mut()
        && fields.remove("rescale_betas_zero_snr") == Some(Value::Bool(true))
    {
        return not_in_diffusers("zero terminal SNR with `heun` and `pndm`");
    }
    Ok(())
}

fn read_variance(name: &str) -> Result<Variance, DiffusionError> {
    match name {
        // `fixed_small_log` is the same variance, computed from its logarithm.
        "fixed_small" | "fixed_small_log" => Ok(Variance::Small),
        "fixed_large" => Ok(Variance::Large),
        _ => refuse("variance_type", name, "use fixed_small or fixed_large"),
    }
}
