//! The classes of diffusers' schedulers: which sampler each stands for, and the keys that are its own.

use serde_json::{Value, json};

use crate::sampler::{Churn, Sampler, Variance};
use crate::scheduler_config::{Fields, refuse};
use crate::{Clip, DiffusionError, FinalLevel, LevelOptions, Spacing, StepGrid};

/// A class of diffusers' schedulers, and what it has keys for.
#[derive(Debug)]
pub(crate) struct SchedulerClass {
    name: &'static str,
    /// `timestep_spacing` where the file has none.
    spacing: &'static str,
    /// `clip_sample` where the file has none; nothing if the class never clips.
    clips: Option<bool>,
    /// Whether it has `thresholding`.
    thresholds: bool,
    /// Whether it has `use_karras_sigmas` and `use_exponential_sigmas`.
    spaces_sigmas: bool,
    /// Whether it has `rescale_betas_zero_snr`.
    rescales: bool,
    /// How its leading and linspaced timesteps lie.
    pub(crate) grid: StepGrid,
    ends: Ends,
}

/// How a class says where the walk ends.
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
    spacing: "leading",
    clips: Some(true),
    thresholds: true,
    spaces_sigmas: false,
    rescales: true,
    grid: StepGrid::Whole,
    ends: Ends::Alpha(true),
};
const DDPM: SchedulerClass = SchedulerClass {
    name: "DDPMScheduler",
    ends: Ends::Clean,
    ..DDIM
};
const PNDM: SchedulerClass = SchedulerClass {
    name: "PNDMScheduler",
    spacing: "leading",
    clips: None,
    thresholds: false,
    spaces_sigmas: false,
    rescales: false,
    grid: StepGrid::Whole,
    ends: Ends::Alpha(false),
};
const EULER: SchedulerClass = SchedulerClass {
    name: "EulerDiscreteScheduler",
    spacing: "linspace",
    clips: None,
    thresholds: false,
    spaces_sigmas: true,
    rescales: true,
    grid: StepGrid::Fractional,
    ends: Ends::Sigma,
};
const EULER_ANCESTRAL: SchedulerClass = SchedulerClass {
    name: "EulerAncestralDiscreteScheduler",
    spaces_sigmas: false,
    ends: Ends::Clean,
    ..EULER
};
const HEUN: SchedulerClass = SchedulerClass {
    name: "HeunDiscreteScheduler",
    clips: Some(false),
    rescales: false,
    ends: Ends::Clean,
    ..EULER
};
const DPM_SOLVER: SchedulerClass = SchedulerClass {
    name: "DPMSolverMultistepScheduler",
    thresholds: true,
    grid: StepGrid::OneMore,
    ..EULER
};
const UNIPC: SchedulerClass = SchedulerClass {
    name: "UniPCMultistepScheduler",
    // Its last step has a lower order, which is the same only where it leads to the clean image.
    ends: Ends::Clean,
    ..DPM_SOLVER
};

impl SchedulerClass {
    /// Its name in diffusers.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The class that a file names, DDIM if it names none.
    pub(crate) fn take(fields: &mut Fields) -> Result<Self, DiffusionError> {
        let name: String = fields.take("_class_name", DDIM.name.to_owned())?;
        let classes = [
            DDIM,
            DDPM,
            PNDM,
            EULER,
            EULER_ANCESTRAL,
            HEUN,
            DPM_SOLVER,
            UNIPC,
        ];
        match classes.into_iter().find(|class| class.name == name) {
            Some(class) => Ok(class),
            None => refuse(
                "_class_name",
                name,
                "use a DDIM, DDPM, PNDM, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, DPMSolverMultistep or UniPCMultistep scheduler",
            ),
        }
    }

    /// Takes the sampler that this class stands for, and refuses the variants of it that are not
    /// available here. Keys that a file has kept from another class are passed over, as diffusers
    /// does.
    pub(crate) fn take_sampler(&self, fields: &mut Fields) -> Result<Sampler, DiffusionError> {
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
                Sampler::Euler { churn: Churn::NONE }
            }
            // Its noise is that of DDIM with eta = 1.
            "EulerAncestralDiscreteScheduler" => Sampler::Ddim {
                eta: 1.0,
                variance: Variance::Small,
            },
            "HeunDiscreteScheduler" => {
                // Of all classes, this one has Stable Diffusion's betas by default.
                fields.default("beta_start", json!(0.00085));
                fields.default("beta_end", json!(0.012));
                Sampler::Heun { churn: Churn::NONE }
            }
            "DPMSolverMultistepScheduler" => {
                fields.require("solver_order", json!(2))?;
                fields.require("solver_type", json!("midpoint"))?;
                fields.require("lambda_min_clipped", Value::Null)?;
                // Both lower the order of a last step that is Euler's anyway, because it ends clean.
                if fields.says("final_sigmas_type", json!("sigma_min")) {
                    fields.require("euler_at_final", json!(false))?;
                }
                fields.pass_over(&["lower_order_final", "euler_at_final"]);
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
            _ => Sampler::default(),
        };
        if self.spaces_sigmas {
            fields.require("use_beta_sigmas", json!(false))?;
            fields.require("use_flow_sigmas", json!(false))?;
            fields.require("use_dynamic_shifting", json!(false))?;
            fields.pass_over(&["flow_shift", "time_shift_type"]);
        }
        Ok(sampler)
    }

    /// Takes the keys about clipping.
    pub(crate) fn take_clip(&self, fields: &mut Fields) -> Result<Option<Clip>, DiffusionError> {
        let clips = fields.take("clip_sample", self.clips.unwrap_or(false))?;
        let range = fields.take("clip_sample_range", 1.0)?;
        let thresholds = fields.take("thresholding", false)?;
        let quantile = fields.take("dynamic_thresholding_ratio", 0.995)?;
        let maximum = fields.take("sample_max_value", 1.0)?;
        let clip = if thresholds && self.thresholds {
            Some(Clip::Dynamic { quantile, maximum })
        } else {
            (clips && self.clips.is_some()).then_some(Clip::Range(range))
        };
        clip.map_or(Ok(()), Clip::validate)?;
        Ok(clip)
    }

    /// Takes the keys about which timesteps are visited and where the walk ends.
    pub(crate) fn take_levels(&self, fields: &mut Fields) -> Result<LevelOptions, DiffusionError> {
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
        if self.spaces_sigmas {
            // These go before the timesteps' own spacing.
            let of_timesteps = spacing;
            for (key, of_sigmas) in [
                ("use_karras_sigmas", Spacing::Karras),
                ("use_exponential_sigmas", Spacing::LogSnr),
                ("use_lu_lambdas", Spacing::LogSnr),
            ] {
                if fields.take(key, false)? {
                    // Euler's and Heun's classes space out what lies between the timesteps' ends.
                    if self.grid == StepGrid::Fractional && of_timesteps != Spacing::Linspace {
                        let advice = "with `timestep_spacing` other than linspace, set it to false";
                        return refuse(key, true, advice);
                    }
                    spacing = of_sigmas;
                }
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
        // `tensor_format` is from diffusers' first months, and said what Python computes with.
        fields.pass_over(&["set_alpha_to_one", "skip_prk_steps", "tensor_format"]);
        if self.name == DDIM.name {
            fields.pass_over(&["variance_type"]);
        }
        Ok(LevelOptions {
            spacing,
            steps_offset: fields.take("steps_offset", 0)?,
            final_level,
            grid: self.grid,
        })
    }

    /// The class that stands for `sampler`. Python passes `eta` and churn when it samples; the file has
    /// no place for them.
    pub(crate) fn of(sampler: Sampler) -> Result<Self, DiffusionError> {
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
            Sampler::Ddim { .. } => "DDIM with the large variance",
            Sampler::Heun { .. } => "Heun's method with churn",
            Sampler::DpmSolver { .. } => "DPM-Solver++ with an `eta` other than 0 and 1",
            Sampler::SecondOrder { .. } => "second-order method with an `alpha`",
            Sampler::AdamsBashforth { .. } => "Adams-Bashforth method",
        };
        Err(DiffusionError::NotInDiffusers(missing))
    }
}

/// Writes the keys about the sampler, the levels and the clipping into `fields`, which has those about
/// the schedule.
pub(crate) fn write_class(
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
        _ => (),
    }

    let spacing = match levels.spacing {
        Spacing::Leading => "leading",
        Spacing::Linspace => "linspace",
        Spacing::Trailing => "trailing",
        Spacing::Quadratic => return not_in_diffusers("quadratic spacing"),
        Spacing::Karras | Spacing::LogSnr if !class.spaces_sigmas => {
            return not_in_diffusers(
                "spacing by sigma with DDIM, DDPM and PNDM (but with `euler`, `heun`, `dpm-solver` and `unipc`)",
            );
        }
        // From the first timestep to the last, as ours.
        Spacing::Karras | Spacing::LogSnr => "linspace",
    };
    fields["timestep_spacing"] = spacing.into();
    fields["steps_offset"] = levels.steps_offset.into();
    if class.spaces_sigmas {
        fields["use_karras_sigmas"] = (levels.spacing == Spacing::Karras).into();
        fields["use_exponential_sigmas"] = (levels.spacing == Spacing::LogSnr).into();
    }
    match (class.ends, levels.final_level) {
        (Ends::Clean, FinalLevel::Clean) => (),
        (Ends::Clean, FinalLevel::First) => {
            return not_in_diffusers(
                "DDPM, Heun's method or UniPC that ends at timestep 0 instead of the clean image",
            );
        }
        (Ends::Alpha(_), end) => fields["set_alpha_to_one"] = (end == FinalLevel::Clean).into(),
        (Ends::Sigma, FinalLevel::Clean) => fields["final_sigmas_type"] = "zero".into(),
        (Ends::Sigma, FinalLevel::First) => fields["final_sigmas_type"] = "sigma_min".into(),
    }

    match clip {
        Some(Clip::Range(range)) if class.clips.is_some() => {
            fields["clip_sample"] = true.into();
            fields["clip_sample_range"] = range.into();
        }
        Some(Clip::Range(_)) => {
            return not_in_diffusers(
                "clipping to a range with `euler`, `pndm`, `dpm-solver` and `unipc`",
            );
        }
        Some(Clip::Dynamic { quantile, maximum }) if class.thresholds => {
            fields["thresholding"] = true.into();
            fields["dynamic_thresholding_ratio"] = quantile.into();
            fields["sample_max_value"] = maximum.into();
        }
        Some(Clip::Dynamic { .. }) => {
            return not_in_diffusers("dynamic thresholding with `euler`, `heun` and `pndm`");
        }
        None if class.clips.is_some() => fields["clip_sample"] = false.into(),
        None => (),
    }

    if !class.rescales
        && let Some(fields) = fields.as_object_mut()
        && fields.remove("rescale_betas_zero_snr") == Some(Value::Bool(true))
    {
        return not_in_diffusers("zero terminal SNR with `heun` and `pndm`");
    }
    Ok(())
}

fn read_variance(name: &str) -> Result<Variance, DiffusionError> {
    match name {
        // `fixed_small_log` is the same variance by way of its logarithm.
        "fixed_small" | "fixed_small_log" => Ok(Variance::Small),
        "fixed_large" => Ok(Variance::Large),
        _ => refuse("variance_type", name, "use fixed_small or fixed_large"),
    }
}
