//! The definition of a stage, and the one module that Burn's Learner trains for all stages.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::Device;
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use kiln_kernels::{Precision, is_cpu, on_the_pool, with_precision};

use crate::experiment::TrainingConfig;
use crate::learner::gradients::summed;
use crate::learner::losses::Losses;
use crate::learner::over_ranks::over_ranks;
use crate::learner::plan::Plan;
use crate::learner::recorded_step::{Recordable, RecordedStep};
use crate::learner::report::StepReport;
use crate::learner::session::Session;
use crate::learner::update::Update;

/// The definition of a stage: its networks, its losses, and what follows an update. Its batches come from a
/// [`BatchSource`](crate::learner::loader::BatchSource).
pub(crate) trait Recipe: Debug + Send + Sync + 'static {
    /// The trained networks, with their state between steps, such as averages. A checkpoint stores exactly this.
    type Networks: Module + Display + Sync + 'static;
    /// One device's input in one micro-batch.
    type Batch: Send + 'static;
    /// One item of a validation.
    type Validation: Send + 'static;

    /// The losses of a batch.
    fn losses(&self, networks: &Self::Networks, batch: Self::Batch) -> Losses;

    /// The losses of a batch for a GPU to record; `None` if its kernels depend on more than the numbers of some tensors.
    fn recordable(
        &self,
        _: &Self::Networks,
        _: &Self::Batch,
    ) -> Option<Recordable<Self::Networks>> {
        None
    }

    /// The networks without those that recordable losses do not read.
    fn learners(&self, networks: &Self::Networks) -> Self::Networks {
        networks.clone()
    }

    /// The networks after an update by the gradients of the whole step.
    fn updated(&self, networks: Self::Networks, update: Update<'_>) -> Self::Networks;

    /// The results of a validation. It reports errors to the session.
    fn validate(&self, networks: &Self::Networks, item: Self::Validation) -> StepReport;
}

/// The networks of a stage in training.
///
/// As a module it consists of its networks, so that a checkpoint has their names.
#[derive(Debug)]
pub(crate) struct Trainee<R: Recipe> {
    networks: R::Networks,
    recipe: Arc<R>,
    /// 1 / (devices x micro-batches): Burn sums gradients, but we need their mean.
    loss_scale: f64,
    precision: Precision,
    /// Whether the networks are on the processor.
    on_cpu: bool,
    recorded: Arc<RecordedStep>,
    session: Session,
}

impl<R: Recipe> Trainee<R> {
    pub(crate) fn new(
        recipe: R,
        networks: R::Networks,
        training: &TrainingConfig,
        plan: &Plan,
        session: Session,
    ) -> Self {
        Self {
            on_cpu: networks.devices().iter().all(is_cpu),
            networks,
            recipe: Arc::new(recipe),
            loss_scale: plan.loss_scale(),
            precision: training.precision,
            recorded: Arc::default(),
            session,
        }
    }

    /// The trained networks.
    pub(crate) fn into_networks(self) -> R::Networks {
        self.networks
    }

    fn with(&self, networks: R::Networks) -> Self {
        Self {
            networks,
            recipe: self.recipe.clone(),
            loss_scale: self.loss_scale,
            precision: self.precision,
            on_cpu: self.on_cpu,
            recorded: self.recorded.clone(),
            session: self.session.clone(),
        }
    }

    /// A step by launches that a GPU has recorded, if it can, and if the gradients are used before the next step overwrites
    /// them.
    fn recorded_step(&self, batch: &R::Batch) -> Option<TrainOutput<StepReport>> {
        let is_whole = self.loss_scale == 1.0;
        if self.on_cpu || !is_whole || !self.recorded.is_due() {
            return None;
        }
        let recordable = self.recipe.recordable(&self.networks, batch)?;
        let (precision, loss_scale) = (self.precision, self.loss_scale);
        (self.recorded).step(
            &self.networks,
            self.recipe.learners(&self.networks),
            recordable,
            move |networks, losses| gradients(networks, losses, precision, loss_scale),
        )
    }

    fn map_networks(mut self, change: impl FnOnce(R::Networks) -> R::Networks) -> Self {
        self.networks = change(self.networks);
        self
    }
}

/// The gradients of the networks' losses, and the report.
fn gradients<N: Module>(
    networks: &N,
    losses: impl FnOnce(&N) -> Losses,
    precision: Precision,
    loss_scale: f64,
) -> TrainOutput<StepReport> {
    with_precision(precision, || {
        let losses = losses(networks);
        let mut loss = losses.total * loss_scale;
        if let Some(carried) = losses.carried {
            loss = loss + carried;
        }
        TrainOutput {
            grads: GradientsParams::from_grads(loss.backward(), networks),
            item: losses.report,
        }
    })
}

impl<R: Recipe> TrainStep for Trainee<R> {
    type Input = R::Batch;
    type Output = StepReport;

    fn step(&self, batch: R::Batch) -> TrainOutput<StepReport> {
        if let Some(output) = self.recorded_step(&batch) {
            return output;
        }
        let step = || {
            let losses = |networks: &R::Networks| self.recipe.losses(networks, batch);
            gradients(&self.networks, losses, self.precision, self.loss_scale)
        };
        // A GPU has a queue for each thread, and steps on changing threads would wait for each other.
        match self.on_cpu {
            true => on_the_pool(step),
            false => step(),
        }
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let gradients = over_ranks(&self, gradients, &self.session);
        let (recipe, on_cpu) = (self.recipe.clone(), self.on_cpu);
        let update = Update {
            optimizer,
            learning_rate,
            gradients,
        };
        self.map_networks(|networks| match on_cpu {
            true => on_the_pool(|| recipe.updated(networks, update)),
            false => recipe.updated(networks, update),
        })
    }

    fn optimize_multi(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: MultiGradientsParams,
    ) -> Self {
        let gradients = summed(&self, gradients);
        self.optimize(optimizer, learning_rate, gradients)
    }
}

impl<R: Recipe> InferenceStep for Trainee<R> {
    type Input = R::Validation;
    type Output = StepReport;

    fn step(&self, item: R::Validation) -> StepReport {
        with_precision(self.precision, || {
            self.recipe.validate(&self.networks, item)
        })
    }
}

impl<R: Recipe> Clone for Trainee<R> {
    fn clone(&self) -> Self {
        self.with(self.networks.clone())
    }
}

impl<R: Recipe> Display for Trainee<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.networks, formatter)
    }
}

impl<R: Recipe> Module for Trainee<R> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.networks.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.map_networks(|networks| networks.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_networks(|networks| networks.to_device(device))
    }

    fn train(self) -> Self {
        self.map_networks(Module::train)
    }

    fn valid(&self) -> Self {
        self.with(self.networks.valid())
    }

    fn materialize(self) -> Self {
        self.map_networks(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.networks.visit(visitor);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.map_networks(|networks| networks.map(mapper))
    }
}
