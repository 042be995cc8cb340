//! A training step whose launches a GPU has recorded and repeats: see [`Repeated`].

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::train::TrainOutput;
use kiln_kernels::{AnyTensor, Repeated, records_launches};

use crate::learner::losses::Losses;
use crate::learner::report::StepReport;
use crate::learner::together::{Replaced, tensors};

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
        learners: N,
        recordable: Recordable<N>,
        gradients: impl Fn(&N, &dyn Fn(&N) -> Losses) -> TrainOutput<StepReport> + Send + 'static,
    ) -> Option<TrainOutput<StepReport>> {
        let Recordable {
            step,
            numbers,
            losses,
        } = recordable;
        let device = networks.devices().into_iter().next()?;
        let mut inputs = tensors(&learners)?;
        let weights = inputs.len();
        inputs.extend(numbers);
        let work = move |mut inputs: Vec<AnyTensor>| {
            let numbers = inputs.split_off(weights);
            let networks = learners.map(&mut Replaced(inputs.into()));
            move || gradients(&networks, &|networks| losses(networks, numbers.clone()))
        };
        let read = |output: &TrainOutput<StepReport>| TrainOutput {
            grads: same(networks, &output.grads),
            item: output.item.repeated_in(step),
        };
        (self.repeated).call(&device.inner(), inputs, work, read)
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
