//! A training step whose launches a GPU has recorded and repeats: see [`Repeated`].

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::train::TrainOutput;
use kiln_kernels::{AnyTensor, Repeated, records_launches};
use kiln_models::ema::replace_value;

use crate::learner::recipe::Losses;
use crate::learner::report::StepReport;

/// The losses of networks on the numbers of a batch.
type LossesOfNumbers<N> = dyn Fn(&N, Vec<AnyTensor>) -> Losses + Send;

/// Losses that launch the same kernels in each step.
pub(crate) struct Recordable<N> {
    /// The step, from zero.
    pub(crate) step: usize,
    /// All numbers that change from step to step, besides the weights.
    pub(crate) numbers: Vec<AnyTensor>,
    pub(crate) losses: Box<LossesOfNumbers<N>>,
}

/// Forward and backward pass of a training, recorded in one of its first steps.
#[derive(Debug, Default)]
pub(crate) struct RecordedStep {
    repeated: Repeated<'static, TrainOutput<StepReport>>,
    /// Steps of this process so far.
    steps: AtomicUsize,
}

/// After the first steps of a process, weights have the order in memory that their gradients have. Until then their numbers
/// would have to be brought into the recorded order in each step.
const FIRST_STEPS: usize = 2;

impl RecordedStep {
    /// Whether to record the step that is about to be done, or to repeat it. Asked once a step.
    pub(crate) fn is_due(&self) -> bool {
        records_launches() && self.steps.fetch_add(1, Ordering::Relaxed) >= FIRST_STEPS
    }

    /// The gradients of `networks`, which the next step overwrites, and the report. `None` if the GPU cannot record.
    ///
    /// The recorded step computes `gradients` of `learners`, these networks without those that the losses do not read.
    pub(crate) fn step<N: Module + 'static>(
        &self,
        networks: &N,
        recordable: Recordable<N>,
        learners: impl FnOnce() -> N,
        gradients: impl Fn(&N, &dyn Fn(&N) -> Losses) -> TrainOutput<StepReport> + Send + 'static,
    ) -> Option<TrainOutput<StepReport>> {
        let Recordable {
            step,
            numbers,
            losses,
        } = recordable;
        let device = networks.devices().into_iter().next()?;
        let mut inputs = learning_weights(networks)?;
        let weights = inputs.len();
        inputs.extend(numbers);
        let work = |mut inputs: Vec<AnyTensor>| {
            let numbers = inputs.split_off(weights);
            let networks = learners().map(&mut Replaced(inputs.into_iter()));
            move || gradients(&networks, &|networks| losses(networks, numbers.clone()))
        };
        let read = |output: &TrainOutput<StepReport>| TrainOutput {
            grads: same(networks, &output.grads),
            item: output.item.repeated_in(step),
        };
        (self.repeated).call(&device.inner(), inputs, work, read)
    }
}

fn learns<const D: usize>(parameter: &Param<Tensor<D>>) -> bool {
    parameter.val().is_require_grad()
}

/// All weights with gradients, if they are on a GPU.
fn learning_weights<N: Module>(networks: &N) -> Option<Vec<AnyTensor>> {
    struct All(Option<Vec<AnyTensor>>);
    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            let Some(found) = self.0.as_mut().filter(|_| learns(parameter)) else {
                return;
            };
            match AnyTensor::of(parameter.val().without_autodiff()) {
                Some(weight) => found.push(weight),
                None => self.0 = None,
            }
        }
    }
    let mut all = All(Some(Vec::new()));
    networks.visit(&mut all);
    all.0
}

/// Gives each weight with gradients its new value.
struct Replaced(std::vec::IntoIter<AnyTensor>);

impl ModuleMapper for Replaced {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = learns(&parameter).then(|| self.0.next()).flatten();
        match value {
            Some(value) => replace_value(parameter, value.into_tensor()),
            None => parameter,
        }
    }
}

/// The same gradients once more.
fn same<N: Module>(networks: &N, gradients: &GradientsParams) -> GradientsParams {
    struct Same<'a>(&'a GradientsParams, GradientsParams);
    impl ModuleVisitor for Same<'_> {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(parameter.id) {
                self.1.register(parameter.id, gradient);
            }
        }
    }
    let mut same = Same(gradients, GradientsParams::new());
    networks.visit(&mut same);
    same.1
}
