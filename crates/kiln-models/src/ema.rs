//! Exponential moving averages of a model's weights: the weights that sample best.
//!
//! The average of the weights over the last steps of training draws better pictures than the last weights
//! (Ho et al. 2020 and every diffusion model since). [`shadow_of`] makes the copy that holds the average, [`update`]
//! moves it after each optimizer step, and [`EmaConfig::decay_at`] gives the amount. The numbers are exactly the same
//! as in diffusers' `EMAModel`.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::Device;
//! use kiln_models::ema::{EmaConfig, shadow_of, update};
//!
//! let config = EmaConfig::default();
//! let model = LinearConfig::new(4, 2).init(&Device::flex().autodiff());
//! let mut shadow = shadow_of(&model);
//! for step in 1..=3 {
//!     // .. an optimizer step on `model` ..
//!     shadow = update(shadow, &model, config.decay_at(step));
//! }
//! ```

use std::any::Any;
use std::collections::VecDeque;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use kiln_kernels::moving_average;
use serde::{Deserialize, Serialize};

/// How fast the average follows the weights: the table `[ema]` of a training stage. Names, defaults and numbers are the
/// same as in diffusers' `EMAModel`, except that the warm-up is on by default here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// Largest share of the average that a step keeps, in [0, 1]; default 0.9999.
    pub decay: f64,
    /// Smallest share, once the average has begun; in [0, 1]; default 0.
    pub min_decay: f64,
    /// Optimizer steps during which the average is simply the weights; default 0.
    pub update_after_step: u64,
    /// `1 - (1 + step / inv_gamma)^-power` if true (default), else `(1 + step) / (10 + step)`.
    pub use_ema_warmup: bool,
    /// Stretches the warm-up by this many steps; more than 0; default 1.
    pub inv_gamma: f64,
    /// How fast the warm-up approaches 1: 2/3 (default) for a million steps and more, 3/4 for fewer.
    pub power: f64,
}

/// A setting of an `[ema]` table that cannot work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EmaConfigError {
    /// A share outside [0, 1].
    #[error("ema.{name} is {value}; it must be between 0 and 1")]
    NotAShare {
        /// The key.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// A number that must be positive and is not.
    #[error("ema.{name} is {value}; it must be more than 0")]
    NotPositive {
        /// The key.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// The floor lies above the ceiling.
    #[error("ema.min_decay is {min_decay}, more than ema.decay, which is {decay}; lower it")]
    MinimumAboveMaximum {
        /// The floor.
        min_decay: f64,
        /// The ceiling.
        decay: f64,
    },
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            decay: 0.9999,
            min_decay: 0.0,
            update_after_step: 0,
            use_ema_warmup: true,
            inv_gamma: 1.0,
            power: 2.0 / 3.0,
        }
    }
}

impl EmaConfig {
    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), EmaConfigError> {
        for (name, value) in [("decay", self.decay), ("min_decay", self.min_decay)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(EmaConfigError::NotAShare { name, value });
            }
        }
        for (name, value) in [("inv_gamma", self.inv_gamma), ("power", self.power)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(EmaConfigError::NotPositive { name, value });
            }
        }
        if self.min_decay > self.decay {
            return Err(EmaConfigError::MinimumAboveMaximum {
                min_decay: self.min_decay,
                decay: self.decay,
            });
        }
        Ok(())
    }

    /// Share of the average kept after optimizer step `optimization_step`, counted from 1: diffusers'
    /// `EMAModel.get_decay`. The first step always gives 0, which copies the weights.
    pub fn decay_at(&self, optimization_step: u64) -> f64 {
        let step = optimization_step.saturating_sub(self.update_after_step.saturating_add(1));
        if step == 0 {
            return 0.0;
        }
        let step = step as f64;
        let decay = if self.use_ema_warmup {
            1.0 - (1.0 + step / self.inv_gamma).powf(-self.power)
        } else {
            (1.0 + step) / (10.0 + step)
        };
        decay.min(self.decay).max(self.min_decay)
    }
}

/// A copy of a model to hold its average.
///
/// Its parameters have their own identities and no gradient. So the shadow may be beside the model in a trained module:
/// it is checkpointed with it, and the optimizer does not move it.
pub fn shadow_of<M: Module>(model: &M) -> M {
    model.clone().map(&mut Shadow)
}

/// Another model with the same weights, which learns for itself: its parameters have their own identities.
pub fn twin_of<M: Module>(model: &M) -> M {
    model.clone().map(&mut Twin)
}

/// `shadow = decay * shadow + (1 - decay) * model`, parameter by parameter.
///
/// Parameters of `model` that take no gradient, such as a codebook that is an average already, are copied, as diffusers
/// does. `shadow` must come from [`shadow_of`] the same model, because parameters are matched by their order. No
/// gradient graph remains.
pub fn update<M: Module>(shadow: M, model: &M, decay: f64) -> M {
    let mut collected = Collected::default();
    model.visit(&mut collected);
    shadow.map(&mut Average {
        weights: collected.weights,
        decay,
    })
}

/// The same parameter with another value. It keeps what autodiff, an optimizer or a multi-device strategy has recorded
/// about it.
pub fn replace_value<const D: usize>(
    parameter: Param<Tensor<D>>,
    value: Tensor<D>,
) -> Param<Tensor<D>> {
    change_value(parameter, |_| value.without_autodiff())
}

/// Like [`replace_value`], with a value made from the old one. Both are without autodiff, and the old one is moved.
fn change_value<const D: usize>(
    parameter: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let id = parameter.id;
    parameter.map(|old| {
        let noted = old
            .gradient_checkpointing_strategy()
            .map(|strategy| (strategy, old.is_require_grad(), old.is_distributed()));
        let value = change(old.without_autodiff());
        let Some((strategy, requires_gradient, distributed)) = noted else {
            return value;
        };
        let value = value
            .autodiff()
            .with_gradient_checkpointing_strategy(strategy)
            .set_require_grad(requires_gradient);
        if distributed {
            value.set_distributed(id)
        } else {
            value
        }
    })
}

struct Shadow;

impl ModuleMapper for Shadow {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (shadow, value) = twin(parameter);
        replace_value(shadow.set_require_grad(false), value)
    }
}

struct Twin;

impl ModuleMapper for Twin {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (twin, value) = twin(parameter);
        replace_value(twin, value)
    }
}

/// A parameter with another identity, and its value.
fn twin<const D: usize>(parameter: Param<Tensor<D>>) -> (Param<Tensor<D>>, Tensor<D>) {
    let value = parameter.val();
    let (_, _, mapper) = parameter.consume();
    let twin = Param::from_mapped_value(ParamId::new(), value.clone(), mapper);
    (twin, value)
}

/// A model's weights in the order of its parameters.
#[derive(Default)]
struct Collected {
    weights: VecDeque<Weight>,
}

struct Weight {
    /// A `Tensor<D>` of some `D`.
    value: Box<dyn Any>,
    /// Whether it never takes a gradient. Without autodiff this is unknown, and counts as no.
    frozen: bool,
}

impl ModuleVisitor for Collected {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let value = parameter.val();
        self.weights.push_back(Weight {
            frozen: value.is_autodiff() && !value.is_require_grad(),
            value: Box::new(value.without_autodiff()),
        });
    }
}

struct Average {
    weights: VecDeque<Weight>,
    decay: f64,
}

impl ModuleMapper for Average {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let matching = self
            .weights
            .pop_front()
            .and_then(|Weight { value, frozen }| {
                let value = value.downcast::<Tensor<D>>().ok()?;
                Some((*value, frozen))
            });
        let Some((weight, frozen)) = matching else {
            debug_assert!(false, "the shadow has another structure than the model");
            return parameter;
        };
        if frozen {
            return replace_value(parameter, weight);
        }
        change_value(parameter, |shadow| {
            moving_average(shadow, weight, self.decay)
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamWConfig, GradientsParams};
    use burn::tensor::Device;

    use super::*;

    /// Made by `tests/fixtures/ema/make.py` with diffusers.
    const DECAYS: &str = include_str!("../../../tests/fixtures/ema/decays.json");

    #[derive(Deserialize)]
    struct Case {
        config: EmaConfig,
        decays: Vec<(u64, f64)>,
    }

    /// A model that carries its own average, as the trainer has it.
    #[derive(Module, Debug)]
    struct Trained {
        model: Linear,
        shadow: Linear,
    }

    fn trained(device: &Device) -> Trained {
        let model = LinearConfig::new(3, 2).init(device);
        let shadow = shadow_of(&model);
        Trained { model, shadow }
    }

    fn weights(model: &Linear) -> Vec<f32> {
        let mut weights: Vec<f32> = model.weight.to_data().iter::<f32>().collect();
        weights.extend(
            model
                .bias
                .iter()
                .flat_map(|bias| bias.to_data().iter::<f32>().collect::<Vec<f32>>()),
        );
        weights
    }

    fn input(device: &Device) -> Tensor<2> {
        Tensor::ones([4, 3], device)
    }

    #[test]
    fn decays_are_those_of_diffusers() {
        let cases: Vec<Case> = serde_json::from_str(DECAYS).expect("the fixture");
        assert_eq!(cases.len(), 5);
        for case in cases {
            assert_eq!(case.config.validate(), Ok(()));
            for (step, expected) in case.decays {
                let decay = case.config.decay_at(step);
                assert!(
                    (decay - expected).abs() < 1e-12,
                    "{:?} at step {step}: {decay} is not {expected}",
                    case.config
                );
            }
        }
    }

    #[test]
    fn a_shadow_is_an_equal_copy_of_its_own() {
        let Trained { model, shadow } = trained(&Device::flex().autodiff());
        assert_eq!(weights(&shadow), weights(&model));
        assert_ne!(shadow.weight.id, model.weight.id);
        assert!(model.weight.is_require_grad());
        assert!(!shadow.weight.is_require_grad());
    }

    #[test]
    fn moves_by_one_minus_decay() {
        let device = Device::flex().autodiff();
        let Trained { model, shadow } = trained(&device);
        let id = shadow.weight.id;
        let start = weights(&shadow);
        let moved = model.map(&mut Shifted);
        let shadow = update(shadow, &moved, 0.75);
        for (now, before) in weights(&shadow).iter().zip(&start) {
            assert!((now - (before + 0.25 * 8.0)).abs() < 1e-5);
        }
        assert_eq!(shadow.weight.id, id);
        assert!(!shadow.weight.is_require_grad());
        let copied = update(shadow, &moved, 0.0);
        for (now, expected) in weights(&copied).iter().zip(weights(&moved)) {
            assert!((now - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn frozen_weights_are_copied() {
        let Trained { model, shadow } = trained(&Device::flex().autodiff());
        let mut moved = model.map(&mut Shifted);
        moved.weight = moved.weight.set_require_grad(false);
        let averaged = update(shadow, &moved, 0.75);
        assert_eq!(averaged.weight.to_data(), moved.weight.to_data());
        assert_ne!(weights(&averaged), weights(&moved));
    }

    struct Shifted;

    impl ModuleMapper for Shifted {
        fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value = parameter.val().add_scalar(8.0);
            replace_value(parameter, value)
        }
    }

    #[test]
    fn a_shadow_samples_and_stays_usable_for_training() {
        let device = Device::flex().autodiff();
        let Trained { model, shadow } = trained(&device);
        let shadow = update(shadow, &model, 0.5);
        let plain = shadow.valid();
        assert!(!plain.weight.is_autodiff());
        assert_eq!(plain.forward(input(&Device::flex())).dims(), [4, 2]);
        // On the autodiff side, beside tensors that are tracked.
        let input = input(&device).require_grad();
        let gradients = shadow.forward(input.clone()).sum().backward();
        assert!(input.grad(&gradients).is_some());
        assert!(shadow.weight.grad(&gradients).is_none());
        // `valid` and back does not enable its gradient.
        assert!(!plain.train().weight.is_require_grad());
    }

    #[test]
    fn the_optimizer_leaves_the_shadow_alone() {
        let device = Device::flex().autodiff();
        let trained = trained(&device);
        let before = weights(&trained.shadow);
        let output = trained.model.forward(input(&device)) + trained.shadow.forward(input(&device));
        let gradients = GradientsParams::from_grads(output.sum().backward(), &trained);
        assert_eq!(gradients.len(), 2);
        let mut optimizer = AdamWConfig::new().with_weight_decay(0.5).init();
        let trained = optimizer.step(0.1, trained, gradients);
        assert_eq!(weights(&trained.shadow), before);
        assert_ne!(weights(&trained.model), before);
    }

    #[test]
    fn a_checkpoint_holds_the_shadow() {
        let device = Device::flex().autodiff();
        let source = trained(&device);
        let moved = source.model.clone().map(&mut Shifted);
        let source = Trained {
            shadow: update(source.shadow, &moved, 0.5),
            ..source
        };
        let (model, shadow) = (weights(&source.model), weights(&source.shadow));
        let restored = trained(&device).load_record(source.into_record());
        assert_eq!(weights(&restored.model), model);
        assert_eq!(weights(&restored.shadow), shadow);
        assert_ne!(model, shadow);
        assert!(restored.model.weight.is_require_grad());
        assert!(!restored.shadow.weight.is_require_grad());
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(EmaConfig::default().validate(), Ok(()));
        let refuse = |json: &str, part: &str| {
            let config: EmaConfig = serde_json::from_str(json).expect("a table");
            let message = config.validate().expect_err(json).to_string();
            assert!(message.contains(part), "{message}");
        };
        refuse(r#"{"decay": 1.5}"#, "ema.decay is 1.5");
        refuse(r#"{"min_decay": -1}"#, "ema.min_decay is -1");
        refuse(r#"{"inv_gamma": 0}"#, "ema.inv_gamma is 0");
        refuse(r#"{"power": -2}"#, "ema.power is -2");
        refuse(r#"{"min_decay": 0.9, "decay": 0.5}"#, "more than ema.decay");
        assert!(serde_json::from_str::<EmaConfig>(r#"{"decai": 1}"#).is_err());
    }
}
