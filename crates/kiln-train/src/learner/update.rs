//! One update of the weights: global-norm clipping, AdamW, and the average of the weights.

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{
    AdamWState, AdaptiveMomentumState, GradientsParams, LearningRate, ModuleOptimizer, Optimizer,
};
use burn::tensor::{Device, Tensor};
use kiln_kernels::{AdamW, AnyTensor, Together};
use kiln_models::ema::{self, EmaConfig, shadow_of};

use crate::experiment::TrainingConfig;
use crate::learner::gradients::{gradient_norm, taken};
use crate::learner::over_ranks::compare_weights;
use crate::learner::session::{OptimizerStep, Session};
use crate::learner::together::{Known, Parameters};

/// The optimizer of all [`Averaged`] networks of a session. It keeps the moments of all their weights.
pub(crate) fn optimizer(session: &Session) -> ModuleOptimizer {
    ModuleOptimizer::from(ClippedAdamW(session.clone()))
}

/// [`AdamW`] in the form that Burn needs: it is called for one parameter at a time, with only its gradient.
///
/// The settings belong to the current network, and the clipping scale depends on all its gradients. Both come from the
/// session. Scaling the gradients beforehand would need another pass over them.
#[derive(Clone)]
struct ClippedAdamW(Session);

impl Optimizer for ClippedAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        if let Some((updated, time)) = self.0.handover().weights.pop_front() {
            let [moment_1, moment_2] = updated.moments.map(AnyTensor::into_tensor);
            let state = AdaptiveMomentumState::new(time, moment_1, moment_2);
            return (updated.weight.into_tensor(), Some(AdamWState::new(state)));
        }
        let OptimizerStep {
            adamw,
            gradient_scale,
        } = self.0.optimizer_step();
        let made = adamw.step(learning_rate, gradient_scale, weight, gradient, state);
        if let Some(state) = &made.1 {
            let moments = [&state.momentum.moment_1, &state.momentum.moment_2];
            if let [Some(first), Some(second)] = moments.map(|moment| AnyTensor::of(moment.clone()))
            {
                let made = ([first, second], state.momentum.time);
                self.0.handover().moments.push(made);
            }
        }
        made
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamWState::new(state.momentum.to_device(device))
    }
}

/// One update.
pub(crate) struct Update<'a> {
    pub(crate) optimizer: &'a mut ModuleOptimizer,
    pub(crate) learning_rate: ModuleLearningRate,
    /// Summed over micro-batches, devices and ranks.
    pub(crate) gradients: GradientsParams,
}

impl Update<'_> {
    /// The network after it.
    fn applied_to<N: Module>(self, network: N) -> N {
        (self.optimizer).step(self.learning_rate, network, self.gradients)
    }

    /// The part for `network`, at `rate` times the learning rate. Its gradients are not in this update any more.
    pub(crate) fn of<N: Module>(&mut self, network: &N, rate: f64) -> Update<'_> {
        Update {
            gradients: taken(network, &mut self.gradients),
            optimizer: &mut *self.optimizer,
            learning_rate: (self.learning_rate.base() * rate).into(),
        }
    }
}

/// A network in training, and the average of its weights if the experiment has one.
#[derive(Module, Debug)]
pub(crate) struct Averaged<N: Module> {
    pub(crate) network: N,
    average: Option<N>,
    #[module(skip)]
    rule: UpdateRule,
}

/// The other inputs of an update, besides the gradients.
#[derive(Debug, Clone)]
struct UpdateRule {
    adamw: AdamW,
    clip_norm: f64,
    ema: Option<EmaConfig>,
    /// The steps of the training, and the steps from one checkpoint to the next.
    steps: usize,
    round: usize,
    /// Steps done before this process began.
    steps_before: usize,
    /// Steps done, counted here because the session's cursor moves only once a round.
    steps_done: usize,
    known: Known,
    session: Session,
}

/// Steps after which a norm on a GPU is looked at. Looking waits until the GPU has done all that it was asked to do.
const LOOKS_AFTER: usize = 16;

impl UpdateRule {
    /// Whether this step is the last one before a checkpoint.
    fn ends_round(&self) -> bool {
        let done = self.steps_done;
        done.is_multiple_of(self.round)
            || done == self.steps
            || self.session.ends_before(done, false)
    }

    /// Whether ranks compare their weights now: after the first step, and before each checkpoint.
    fn compares_ranks(&self) -> bool {
        let is_first = self.steps_done == self.steps_before + 1;
        !self.session.ranks().is_alone() && (is_first || self.ends_round())
    }

    /// Ends the training if a norm was not finite in an update of all weights together. It looks now and then, and
    /// before each checkpoint: no weight has moved since that norm.
    fn look_at_norm(&self) {
        let looks = self.steps_done.is_multiple_of(LOOKS_AFTER) || self.ends_round();
        if let Some((norm, step)) = looks
            .then(|| self.known.norm())
            .flatten()
            .filter(|(norm, _)| !norm.is_finite())
        {
            self.session.fail_diverged("gradient norm", norm, step);
        }
    }
}

impl<N: Module> Averaged<N> {
    /// `round` steps lie between two checkpoints.
    pub(crate) fn new(
        network: N,
        training: &TrainingConfig,
        round: usize,
        session: Session,
    ) -> Self {
        Self {
            average: training.ema.is_some().then(|| shadow_of(&network)),
            network,
            rule: UpdateRule {
                adamw: AdamW {
                    beta_1: training.betas[0] as f32,
                    beta_2: training.betas[1] as f32,
                    epsilon: training.epsilon as f32,
                    weight_decay: training.weight_decay as f32,
                },
                clip_norm: training.clip_norm,
                ema: training.ema.clone(),
                steps: training.steps,
                round,
                steps_before: session.steps_done(),
                steps_done: session.steps_done(),
                known: Known::default(),
                session,
            },
        }
    }

    /// The network for validation, pictures and the model: the average, or without one the network itself.
    pub(crate) fn best(&self) -> &N {
        self.average.as_ref().unwrap_or(&self.network)
    }

    /// The network without the numbers that only updates need.
    pub(crate) fn without_state(&self) -> Self {
        Self {
            network: self.network.clone(),
            average: None,
            rule: UpdateRule {
                known: Known::default(),
                ..self.rule.clone()
            },
        }
    }

    /// The training steps so far, including those of earlier parts of the run.
    pub(crate) fn steps_done(&self) -> usize {
        self.rule.steps_done
    }

    /// See [`Averaged::best`].
    pub(crate) fn into_best(self) -> N {
        self.average.unwrap_or(self.network)
    }

    /// Updates the network with the gradients, and then its average. The optimizer must belong to the same session.
    ///
    /// Gradients that are not finite change nothing, and end the training.
    pub(crate) fn updated(mut self, update: Update<'_>) -> Self {
        self.rule.steps_done += 1;
        let updated = match Parameters::of(&self.network, &update.gradients) {
            Some(parameters) if parameters.are_in(&self.rule.known) => {
                self.updated_together(parameters, update)
            }
            parameters => self.updated_one_by_one(parameters, update),
        };
        if updated.rule.compares_ranks() {
            // The average follows from the weights.
            compare_weights(&updated.network, &updated.rule.session);
        }
        updated.rule.look_at_norm();
        updated
    }

    fn updated_together(mut self, parameters: Parameters, update: Update<'_>) -> Self {
        let rule = &mut self.rule;
        let decay = (rule.ema.as_ref()).map(|ema| ema.decay_at(rule.steps_done as u64));
        let together = Together {
            adamw: rule.adamw,
            learning_rate: update.learning_rate.base(),
            clip_norm: rule.clip_norm,
            decay: decay.unwrap_or_default(),
            step: rule.steps_done - 1,
        };
        let updated = parameters.update(together, &mut rule.known, &mut self.average);
        rule.session.handover().weights = updated.weights;
        self.network = update.applied_to(self.network);
        if let Some(decay) = decay.filter(|_| !updated.averaged)
            && let Some(average) = self.average.take()
        {
            self.average = Some(ema::update(average, &self.network, decay));
        }
        self
    }

    /// On a GPU, this notes the moments of `parameters`, so that the next update can be one of all together.
    fn updated_one_by_one(mut self, parameters: Option<Parameters>, update: Update<'_>) -> Self {
        let rule = &mut self.rule;
        let norm = gradient_norm(&self.network, &update.gradients);
        if !norm.is_finite() {
            let step = rule.steps_done - 1;
            rule.session.fail_diverged("gradient norm", norm, step);
            return self;
        }
        let clips = rule.clip_norm > 0.0 && norm > rule.clip_norm;
        rule.session.set_optimizer_step(OptimizerStep {
            adamw: rule.adamw,
            gradient_scale: if clips { rule.clip_norm / norm } else { 1.0 },
        });
        rule.session.handover().moments.clear();
        self.network = update.applied_to(self.network);
        if let Some(parameters) = parameters {
            let moments = std::mem::take(&mut rule.session.handover().moments);
            rule.known.moments = parameters.ids.into_iter().zip(moments).collect();
        }
        if let (Some(average), Some(ema)) = (self.average.take(), &rule.ema) {
            let decay = ema.decay_at(rule.steps_done as u64);
            self.average = Some(ema::update(average, &self.network, decay));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::AdamWConfig;

    use super::*;
    use crate::learner::session::StopSignal;

    const TRAINING: &str = r#"
        steps = 10
        batch_size = 4
        learning_rate = 0.1
        checkpoint_every = 5
        weight_decay = 0.1
        epsilon = 1e-2
        clip_norm = 0.0
        [ema]
        decay = 0.75
        use_ema_warmup = false
        min_decay = 0.75
    "#;

    fn training(clip_norm: f64) -> TrainingConfig {
        let training = toml::from_str(TRAINING).unwrap();
        TrainingConfig {
            clip_norm,
            ..training
        }
    }

    fn gradients(network: &Linear, scale: f64) -> GradientsParams {
        let input = Tensor::<2>::ones([5, 3], &network.weight.device());
        let loss = network.forward(input).square().mean() * scale;
        GradientsParams::from_grads(loss.backward(), network)
    }

    fn network() -> Linear {
        LinearConfig::new(3, 2).init(&Device::flex().autodiff())
    }

    fn values(network: &Linear) -> Vec<f32> {
        let bias = network.bias.as_ref().map(|bias| bias.to_data());
        let all = [Some(network.weight.to_data()), bias].into_iter().flatten();
        all.flat_map(|data| data.iter::<f32>().collect::<Vec<f32>>())
            .collect()
    }

    fn assert_close(ours: &Linear, burns: &Linear) {
        for (ours, burns) in values(ours).iter().zip(values(burns)) {
            assert!((ours - burns).abs() < 1e-6, "{ours} is not {burns}");
        }
    }

    #[test]
    fn the_norm_goes_over_all_parameters() {
        let network = network();
        let gradients = gradients(&network, 1.0);
        let weight = gradients.get::<2>(network.weight.id).unwrap();
        let bias = gradients
            .get::<1>(network.bias.as_ref().unwrap().id)
            .unwrap();
        let squares = weight.square().sum() + bias.square().sum();
        let squares = f64::from(squares.into_scalar::<f32>());
        assert!((gradient_norm(&network, &gradients) - squares.sqrt()).abs() < 1e-6);
    }

    /// Clipping must equal Burn's own AdamW on gradients that were scaled down beforehand.
    #[test]
    fn clipped_steps_are_burns_along_shorter_gradients() {
        let mut burns = network();
        let norm = gradient_norm(&burns, &gradients(&burns, 1.0));
        let (training, session) = (training(norm / 2.0), Session::new(0, StopSignal::default()));
        let mut ours = Averaged::new(burns.clone(), &training, 5, session.clone());
        let mut average = shadow_of(&burns);
        let mut optimizer = optimizer(&session);
        let mut optimizer_of_burn = AdamWConfig::new()
            .with_epsilon(1e-2)
            .with_weight_decay(0.1)
            .init();
        for step in 1..=5 {
            let norm = gradient_norm(&burns, &gradients(&burns, 1.0));
            let scale = (training.clip_norm / norm).min(1.0);
            let shorter = gradients(&burns, scale);
            burns = optimizer_of_burn.step(0.1, burns, shorter);
            let decay = training.ema.as_ref().unwrap().decay_at(step);
            average = ema::update(average, &burns, decay);
            let gradients = gradients(&ours.network, 1.0);
            ours = ours.updated(Update {
                optimizer: &mut optimizer,
                learning_rate: 0.1.into(),
                gradients,
            });
            assert_close(&ours.network, &burns);
            assert_close(ours.best(), &average);
        }
    }

    /// Two networks of one session, with different settings.
    #[test]
    fn each_network_has_its_own_settings() {
        let [first, second] = [network(), network()];
        let session = Session::new(0, StopSignal::default());
        let decaying = TrainingConfig {
            weight_decay: 0.5,
            betas: [0.5, 0.9],
            ..training(0.0)
        };
        let mut both = [(first, training(0.0)), (second, decaying)].map(|(network, training)| {
            let optimizer_of_burn = AdamWConfig::new()
                .with_epsilon(training.epsilon as f32)
                .with_weight_decay(training.weight_decay as f32)
                .with_beta_1(training.betas[0] as f32)
                .with_beta_2(training.betas[1] as f32)
                .init();
            let ours = Averaged::new(network.clone(), &training, 5, session.clone());
            (Some(ours), network, optimizer_of_burn)
        });
        let mut optimizer = optimizer(&session);
        for _ in 0..3 {
            for (ours, burns, optimizer_of_burn) in &mut both {
                let network = ours.take().unwrap();
                let gradients_of_ours = gradients(&network.network, 1.0);
                let after = network.updated(Update {
                    optimizer: &mut optimizer,
                    learning_rate: 0.1.into(),
                    gradients: gradients_of_ours,
                });
                *burns = optimizer_of_burn.step(0.1, burns.clone(), gradients(burns, 1.0));
                assert_close(&after.network, burns);
                *ours = Some(after);
            }
        }
    }

    #[test]
    fn gradients_that_are_not_finite_change_nothing_and_are_reported() {
        let network = network();
        let before = network.weight.val().into_data();
        let bad = gradients(&network, f64::INFINITY);
        let session = Session::new(0, StopSignal::default());
        let learning = Averaged::new(network, &training(1.0), 5, session.clone());
        let mut optimizer = optimizer(&session);
        let after = learning.updated(Update {
            optimizer: &mut optimizer,
            learning_rate: 1e-3.into(),
            gradients: bad,
        });
        assert_eq!(after.best().weight.val().into_data(), before);
        let message = session.take_failure().unwrap().to_string();
        assert!(
            message.contains("gradient norm") && message.contains("step 1"),
            "{message}"
        );
    }
}
