//! The choice between the samplers, as a value.

use std::str::FromStr;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::adams_bashforth::{self, adams_bashforth};
use super::churn::Churn;
use super::consistency::{self, consistency};
use super::ddim::ddim;
use super::ddpm::{Variance, ddpm};
use super::dpm_solver::dpm_solver;
use super::eta;
use super::euler::euler;
use super::heun::heun;
use super::pndm::pndm;
use super::second_order::{self, second_order};
use super::step_taken::StepTaken;
use super::unipc::unipc;
use crate::no_settings::no_settings;
use crate::{Denoiser, DiffusionError, Level, Schedule, trailing_levels};

/// A sampler and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Sampler {
    /// [`ddim`]
    Ddim {
        /// Stochasticity, from 0 (none) to 1 (DDPM's).
        #[serde(default)]
        eta: f64,
        /// How much noise a step with `eta` > 0 adds.
        #[serde(default)]
        variance: Variance,
    },
    /// [`ddpm`]
    Ddpm {
        /// How much noise a step adds.
        #[serde(default)]
        variance: Variance,
    },
    /// [`euler`]
    Euler {
        /// Noise that is added on the way.
        #[serde(default)]
        churn: Churn,
    },
    /// [`heun`]
    Heun {
        /// Noise that is added on the way.
        #[serde(default)]
        churn: Churn,
    },
    /// [`second_order`]
    SecondOrder {
        /// Where in a step the network is called again: 0.5 is the middle, 1 the end.
        alpha: f64,
    },
    /// [`adams_bashforth`]
    AdamsBashforth {
        /// How many estimates of the noise are combined, from 1 to 5.
        order: usize,
    },
    /// [`pndm`]
    #[serde(deserialize_with = "no_settings")]
    Pndm,
    /// [`dpm_solver`]
    DpmSolver {
        /// Stochasticity, from 0 (the differential equation) to 1 (its stochastic form).
        #[serde(default)]
        eta: f64,
    },
    /// [`unipc`]
    #[serde(rename = "unipc", deserialize_with = "no_settings")]
    UniPc,
    /// [`consistency()`]
    Consistency {
        /// Into how many pieces the network's distillation cut the way from noise to image: 1 or more.
        #[serde(default = "one")]
        segments: usize,
    },
}

fn one() -> usize {
    1
}

impl Default for Sampler {
    /// DDIM without fresh noise.
    fn default() -> Self {
        Self::ALL[0]
    }
}

impl Sampler {
    /// Every sampler, with its default settings.
    pub const ALL: [Sampler; 10] = [
        Sampler::Ddim {
            eta: 0.0,
            variance: Variance::Small,
        },
        Sampler::Ddpm {
            variance: Variance::Small,
        },
        Sampler::Euler { churn: Churn::NONE },
        Sampler::Heun { churn: Churn::NONE },
        Sampler::SecondOrder { alpha: 0.5 },
        Sampler::AdamsBashforth { order: 2 },
        Sampler::Pndm,
        Sampler::DpmSolver { eta: 0.0 },
        Sampler::UniPc,
        Sampler::Consistency { segments: 1 },
    ];

    /// The name in a config file and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Ddim { .. } => "ddim",
            Sampler::Ddpm { .. } => "ddpm",
            Sampler::Euler { .. } => "euler",
            Sampler::Heun { .. } => "heun",
            Sampler::SecondOrder { .. } => "second-order",
            Sampler::AdamsBashforth { .. } => "adams-bashforth",
            Sampler::Pndm => "pndm",
            Sampler::DpmSolver { .. } => "dpm-solver",
            Sampler::UniPc => "unipc",
            Sampler::Consistency { .. } => "consistency",
        }
    }

    /// Its source and its use, in one line without a full stop.
    pub fn summary(self) -> &'static str {
        match self {
            Sampler::Ddim { .. } => {
                "Song et al. 2021: few steps, deterministic unless eta is above 0"
            }
            Sampler::Ddpm { .. } => "Ho et al. 2020: new noise after every step, wants many steps",
            Sampler::Euler { .. } => {
                "Karras et al. 2022: DDIM's steps, with churn if noise is to be added"
            }
            Sampler::Heun { .. } => {
                "Karras et al. 2022: second order, two network calls per step, with churn"
            }
            Sampler::SecondOrder { .. } => {
                "second order, two network calls per step, the second at alpha of the step"
            }
            Sampler::AdamsBashforth { .. } => {
                "combines the last `order` estimates of the noise, one network call per step"
            }
            Sampler::Pndm => "Liu et al. 2022: Adams-Bashforth of order 4 after one step of Heun's",
            Sampler::DpmSolver { .. } => {
                "Lu et al. 2022, DPM-Solver++(2M): good images in 10 to 20 steps"
            }
            Sampler::UniPc => "Zhao et al. 2023: DPM-Solver++ with a corrector, for 5 to 10 steps",
            Sampler::Consistency { .. } => {
                "Song et al. 2023: 1 to 8 steps, for models of `kiln distill`, with new noise after each"
            }
        }
    }

    /// This sampler with those settings of `of_model`, the sampler of a model, that belong to the model and not to a drawing:
    /// DDPM's variance and the segments of a distillation.
    pub fn for_model(self, of_model: Sampler) -> Self {
        match (self, of_model) {
            (Sampler::Ddpm { .. }, Sampler::Ddpm { .. })
            | (Sampler::Consistency { .. }, Sampler::Consistency { .. }) => of_model,
            _ => self,
        }
    }

    /// How often a walk of so many steps calls the denoiser.
    pub fn calls(self, steps: usize) -> usize {
        match self {
            // The last step, which ends at the clean image, has no second half.
            Sampler::Heun { .. } => 2 * steps - 1,
            Sampler::SecondOrder { .. } => 2 * steps,
            Sampler::Pndm => steps + 1,
            Sampler::Ddim { .. }
            | Sampler::Ddpm { .. }
            | Sampler::Euler { .. }
            | Sampler::AdamsBashforth { .. }
            | Sampler::DpmSolver { .. }
            | Sampler::UniPc
            | Sampler::Consistency { .. } => steps,
        }
    }

    /// The stochasticity, from 0 to 1, of a sampler that has this setting.
    pub fn eta(mut self) -> Option<f64> {
        self.eta_mut().copied()
    }

    /// The setting that [`Self::eta`] reads.
    pub fn eta_mut(&mut self) -> Option<&mut f64> {
        match self {
            Sampler::Ddim { eta, .. } | Sampler::DpmSolver { eta } => Some(eta),
            Sampler::Ddpm { .. }
            | Sampler::Euler { .. }
            | Sampler::Heun { .. }
            | Sampler::SecondOrder { .. }
            | Sampler::AdamsBashforth { .. }
            | Sampler::Pndm
            | Sampler::UniPc
            | Sampler::Consistency { .. } => None,
        }
    }

    /// The segments of consistency sampling; `None` for any other sampler.
    pub fn segments(self) -> Option<usize> {
        match self {
            Sampler::Consistency { segments } => Some(segments),
            _ => None,
        }
    }

    /// Refuses settings out of their range before any work starts.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn validate(self) -> Result<(), DiffusionError> {
        match self {
            Sampler::Ddim { eta, .. } | Sampler::DpmSolver { eta } => eta::check(eta),
            Sampler::Euler { churn } | Sampler::Heun { churn } => churn.validate(),
            Sampler::SecondOrder { alpha } => second_order::check(alpha),
            Sampler::AdamsBashforth { order } => adams_bashforth::check(order),
            Sampler::Consistency { segments } => consistency::check(segments),
            Sampler::Ddpm { .. } | Sampler::Pndm | Sampler::UniPc => Ok(()),
        }
    }

    /// Walks `noise` `[batch, channels, height, width]` down `levels`, which lie on `schedule`.
    ///
    /// It may start anywhere: `noise` is whatever belongs to the first level, pure noise at the
    /// beginning of a trajectory, a noisy image in the [middle](crate::last_part) of one.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn sample(
        self,
        denoiser: &dyn Denoiser,
        noise: Tensor<4>,
        levels: &[Level],
        schedule: &Schedule,
        fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
        observe: &mut dyn FnMut(StepTaken<'_>),
    ) -> Result<Tensor<4>, DiffusionError> {
        match self {
            Sampler::Ddim { eta, variance } => {
                ddim(denoiser, noise, levels, eta, variance, fresh_noise, observe)
            }
            Sampler::Ddpm { variance } => Ok(ddpm(
                denoiser,
                noise,
                levels,
                variance,
                fresh_noise,
                observe,
            )),
            Sampler::Euler { churn } => euler(
                denoiser,
                noise,
                levels,
                schedule,
                churn,
                fresh_noise,
                observe,
            ),
            Sampler::Heun { churn } => heun(
                denoiser,
                noise,
                levels,
                schedule,
                churn,
                fresh_noise,
                observe,
            ),
            Sampler::SecondOrder { alpha } => {
                second_order(denoiser, noise, levels, schedule, alpha, observe)
            }
            Sampler::AdamsBashforth { order } => {
                adams_bashforth(denoiser, noise, levels, order, observe)
            }
            Sampler::Pndm => Ok(pndm(denoiser, noise, levels, observe)),
            Sampler::DpmSolver { eta } => {
                dpm_solver(denoiser, noise, levels, eta, fresh_noise, observe)
            }
            Sampler::UniPc => Ok(unipc(denoiser, noise, levels, observe)),
            Sampler::Consistency { segments } => {
                let ends = trailing_levels(schedule, segments)?;
                Ok(consistency(
                    denoiser,
                    noise,
                    levels,
                    &ends,
                    fresh_noise,
                    observe,
                ))
            }
        }
    }
}

impl FromStr for Sampler {
    type Err = DiffusionError;

    /// The sampler of this [name](Self::name), with its default settings.
    fn from_str(name: &str) -> Result<Self, DiffusionError> {
        (Self::ALL.into_iter())
            .find(|sampler| sampler.name() == name)
            .ok_or_else(|| DiffusionError::UnknownSampler {
                name: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_configs_write_them() {
        for sampler in Sampler::ALL {
            assert_eq!(sampler.name().parse(), Ok(sampler));
            let written = serde_json::to_value(sampler).unwrap();
            assert_eq!(written["kind"], sampler.name());
            assert_eq!(serde_json::from_value::<Sampler>(written).unwrap(), sampler);
            assert!(!sampler.summary().ends_with('.'));
        }
        let message = "dpm".parse::<Sampler>().unwrap_err().to_string();
        assert!(
            message.contains("`dpm`") && message.contains("dpm-solver"),
            "{message}"
        );
    }

    #[test]
    fn every_variant_is_among_all() {
        let refused = serde_json::from_str::<Sampler>(r#"{"kind": "none"}"#).unwrap_err();
        let refused = refused.to_string();
        // "unknown variant `none`, expected one of `ddim`, `ddpm`, .. at line 1 column 15"
        let known: Vec<&str> = refused.split('`').skip(3).step_by(2).collect();
        assert_eq!(known, Sampler::ALL.map(Sampler::name), "{refused}");
    }

    #[test]
    fn settings_may_be_left_out_where_there_is_a_usual_one() {
        for sampler in [r#"{"kind": "euler"}"#, r#"{"kind": "ddim", "eta": 0.0}"#] {
            serde_json::from_str::<Sampler>(sampler).unwrap();
        }
        for sampler in Sampler::ALL {
            let mut with_another = serde_json::to_value(sampler).unwrap();
            with_another["solver"] = 3.into();
            let refused = serde_json::from_value::<Sampler>(with_another).unwrap_err();
            assert!(refused.to_string().contains("`solver`"), "{refused}");
        }
    }
}
