//! One update of the weights: global-norm clipping, AdamW, and the average of the weights.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Device, Tensor};
use kiln_models::ema::{self, EmaConfig, shadow_of};

use crate::experiment::TrainingConfig;
use crate::session::Session;

/// AdamW (Loshchilov & Hutter 2019) as the experiment asks for it.
pub(crate) fn optimizer(training: &TrainingConfig) -> ModuleOptimizer {
    AdamWConfig::new()
        .with_beta_1(training.betas[0] as f32)
        .with_beta_2(training.betas[1] as f32)
        .with_epsilon(training.epsilon as f32)
        .with_weight_decay(training.weight_decay as f32)
        .init()
}

/// A network in training, beside the average of its weights where the experiment has one.
#[derive(Module, Debug)]
pub(crate) struct Averaged<N: Module> {
    pub(crate) network: N,
    average: Option<N>,
    #[module(skip)]
    rule: UpdateRule,
}

/// What an update needs to know besides the gradients.
#[derive(Debug, Clone)]
struct UpdateRule {
    clip_norm: f64,
    ema: Option<EmaConfig>,
    /// Steps done, counted here because the session's cursor moves only once a round.
    steps_done: usize,
    session: Session,
}

impl<N: Module> Averaged<N> {
    pub(crate) fn new(network: N, training: &TrainingConfig, session: Session) -> Self {
        Self {
            average: training.ema.is_some().then(|| shadow_of(&network)),
            network,
            rule: UpdateRule {
                clip_norm: training.clip_norm,
                ema: training.ema.clone(),
                steps_done: session.steps_done(),
                session,
            },
        }
    }

    /// What is validated, drawn and kept: the average, or without one the network itself.
    pub(crate) fn best(&self) -> &N {
        self.average.as_ref().unwrap_or(&self.network)
    }

    /// See [`Averaged::best`].
    pub(crate) fn into_best(self) -> N {
        self.average.unwrap_or(self.network)
    }

    /// Moves the network along `gradients`, and its average after it.
    ///
    /// Gradients that are not finite change nothing and end the training.
    pub(crate) fn updated(
        mut self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let rule = &mut self.rule;
        rule.steps_done += 1;
        let norm = gradient_norm(&self.network, &gradients);
        if !norm.is_finite() {
            let step = rule.steps_done - 1;
            rule.session.fail_diverged("gradient norm", norm, step);
            return self;
        }
        let gradients = if rule.clip_norm > 0.0 && norm > rule.clip_norm {
            scaled(&self.network, gradients, rule.clip_norm / norm)
        } else {
            gradients
        };
        self.network = optimizer.step(learning_rate, self.network, gradients);
        if let (Some(average), Some(ema)) = (self.average.take(), &rule.ema) {
            let decay = ema.decay_at(rule.steps_done as u64);
            self.average = Some(ema::update(average, &self.network, decay));
        }
        self
    }
}

/// The gradients of all devices, summed on the device of the first.
///
/// Clipping needs the norm of the sum before any weight moves, so sharded training sums first, too.
pub(crate) fn summed<M: Module>(
    module: &M,
    mut gradients: MultiGradientsParams,
) -> GradientsParams {
    struct Sum<'a> {
        parts: &'a mut MultiGradientsParams,
        device: Option<Device>,
        sum: GradientsParams,
    }
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some((gradient, _)) = self.parts.remove::<D>(param.id) {
                let device = self.device.get_or_insert_with(|| gradient.device());
                self.sum.register(param.id, gradient.to_device(device));
            }
        }
    }
    let device = gradients
        .grads
        .first()
        .map(|(_, device)| device.clone().inner());
    let mut sum = Sum {
        parts: &mut gradients,
        device,
        sum: GradientsParams::new(),
    };
    module.visit(&mut sum);
    sum.sum
}

/// Euclidean norm over all gradients of `module` together.
fn gradient_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct Squares<'a> {
        gradients: &'a GradientsParams,
        squares: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.squares.push(gradient.square().sum());
            }
        }
    }
    let mut visitor = Squares {
        gradients,
        squares: Vec::new(),
    };
    module.visit(&mut visitor);
    if visitor.squares.is_empty() {
        return 0.0;
    }
    let squares: Vec<f64> = Tensor::cat(visitor.squares, 0)
        .into_data()
        .iter::<f64>()
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

fn scaled<M: Module>(module: &M, gradients: GradientsParams, factor: f64) -> GradientsParams {
    struct Scale {
        gradients: GradientsParams,
        factor: f64,
    }
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                self.gradients
                    .register(param.id, gradient.mul_scalar(self.factor));
            }
        }
    }
    let mut visitor = Scale { gradients, factor };
    module.visit(&mut visitor);
    visitor.gradients
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};

    use super::*;
    use crate::session::StopSignal;

    fn gradients(network: &Linear, scale: f32) -> GradientsParams {
        let input = Tensor::<2>::ones([5, 3], &network.weight.device());
        let loss = network.forward(input).square().mean() * scale;
        GradientsParams::from_grads(loss.backward(), network)
    }

    fn network() -> Linear {
        LinearConfig::new(3, 2).init(&Device::flex().autodiff())
    }

    #[test]
    fn the_norm_goes_over_all_parameters() {
        let network = network();
        let gradients = gradients(&network, 1.0);
        let weight: f64 = gradients
            .get::<2>(network.weight.id)
            .unwrap()
            .square()
            .sum()
            .into_scalar::<f32>() as f64;
        let bias_id = network.bias.as_ref().unwrap().id;
        let bias: f64 = gradients
            .get::<1>(bias_id)
            .unwrap()
            .square()
            .sum()
            .into_scalar::<f32>() as f64;
        let norm = gradient_norm(&network, &gradients);
        assert!((norm - (weight + bias).sqrt()).abs() < 1e-6 * norm);
        let clipped = scaled(&network, gradients, 0.5 / norm);
        assert!((gradient_norm(&network, &clipped) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn gradients_that_are_not_finite_change_nothing_and_are_reported() {
        let network = network();
        let before = network.weight.val().into_data();
        let bad = gradients(&network, f32::INFINITY);
        let session = Session::new(0, StopSignal::default());
        let learning = Averaged {
            network,
            average: None,
            rule: UpdateRule {
                clip_norm: 1.0,
                ema: None,
                steps_done: 0,
                session: session.clone(),
            },
        };
        let after = learning.updated(&mut AdamWConfig::new().init(), 1e-3.into(), bad);
        assert_eq!(after.best().weight.val().into_data(), before);
        let message = session.take_failure().unwrap().to_string();
        assert!(
            message.contains("gradient norm") && message.contains("step 1"),
            "{message}"
        );
    }
}
