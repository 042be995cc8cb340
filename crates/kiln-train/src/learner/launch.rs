//! Runs one stage on Burn's Learner, with all additions of this crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use burn::train::metric::store::EventStoreClient;
use burn::train::renderer::MetricsRenderer;
use burn::train::{
    EarlyStoppingStrategy, ExecutionStrategy, InferenceStep, Learner, LearnerModel, LearningResult,
    MultiDeviceOptim, SupervisedTraining, TrainStep, TrainingError, TrainingStrategy,
};
use kiln_pipeline::Devices;
use kiln_pipeline::plots::Rows;

use crate::error::TrainError;
use crate::event_file::EventFile;
use crate::experiment::TrainingConfig;
use crate::learner::checkpointer::CheckpointWriter;
use crate::learner::dashboard::{self, LastingStderr, dashboard};
use crate::learner::learning_rate::WarmupCosine;
use crate::learner::loader::{BatchSource, TrainingLoader, ValidationLoader};
use crate::learner::log::{RunLog, Watch};
use crate::learner::plan::Plan;
use crate::learner::renderer::LineRenderer;
use crate::learner::report::{Gathered, MetricKind, Of, StepReport};
use crate::learner::session::Session;
use crate::learner::strategy::Strategy;
use crate::learner::update::optimizer;
use crate::run_folder::StageFolder;
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint, PARTS};
use crate::run_folder::identity::Identity;
use crate::run_folder::metrics_table::add_rows;

/// One stage, ready to be trained.
pub(crate) struct Training<'a> {
    pub(crate) name: &'static str,
    pub(crate) folder: StageFolder,
    pub(crate) training: &'a TrainingConfig,
    /// The first one is the loss.
    pub(crate) metrics: Vec<MetricKind>,
    /// The metric that is smallest at the best checkpoint.
    pub(crate) best_by: &'static str,
    /// Looks for what goes wrong after each round.
    pub(crate) watch: Watch,
    pub(crate) devices: &'a Devices,
    pub(crate) strategy: Strategy,
    pub(crate) plan: Arc<Plan>,
    pub(crate) session: Session,
    pub(crate) resume: Option<GoodCheckpoint>,
    /// The identity of its checkpoints.
    pub(crate) identity: Identity,
    /// Whether to write an event file for TensorBoard. An earlier part's is always continued.
    pub(crate) tensorboard: bool,
    /// The share of the steps after which it pauses, if it is to.
    pub(crate) pause_after: Option<f64>,
}

/// The result of a training.
pub(crate) struct Outcome<M> {
    pub(crate) model: M,
    pub(crate) seconds: f64,
    /// Steps done in this run, not counting those before a resume.
    pub(crate) steps: usize,
    /// All steps done.
    pub(crate) steps_done: usize,
    /// Whether a stop came before the end of their validation.
    pub(crate) owes_validation: bool,
}

impl Training<'_> {
    /// Trains `model` on the batches of `source` until the last step, a requested stop or a failure.
    ///
    /// # Errors
    /// The cause if the training ended before its last step, except for a requested stop.
    pub(crate) fn train<M, S>(self, model: M, source: S) -> Result<Outcome<M>, TrainError>
    where
        S: BatchSource,
        M: TrainStep<Input = S::Batch, Output = StepReport>
            + InferenceStep<Input = S::Validation, Output = StepReport>
            + LearnerModel,
    {
        let (session, plan) = (self.session.clone(), self.plan.clone());
        let metrics = self.folder.metrics();
        let first = session.steps_done();
        if let Some(warning) = plan.warning().filter(|_| session.ranks().is_first()) {
            tracing::warn!("{warning}");
        }
        let owes_validation = (self.resume.as_ref())
            .is_some_and(|checkpoint| checkpoint.owes_validation && plan.ends_round(first));
        session.set_owes_validation(owes_validation);
        let execution = self.execution()?;
        let source = Arc::new(source);
        let device = self.devices.first();
        let train = TrainingLoader::new(
            source.clone(),
            plan.clone(),
            session.clone(),
            device.clone(),
        )
        .after_owed_validation();
        let valid = ValidationLoader::new(source, session.clone(), device.inner());
        let checkpoints = CheckpointFolder::new(self.folder.checkpoints());
        let writer = CheckpointWriter::new(
            checkpoints,
            self.resume.clone(),
            self.training.keep_checkpoints,
            self.best_by,
            self.identity.clone(),
            match session.ranks().size() {
                1 => self.devices.to_string(),
                ranks => format!("{}, {ranks} processes", self.devices),
            },
            session.clone(),
        );
        let [model_part, optimizer_part, scheduler_part] = PARTS.map(|name| writer.part(name));
        let log = RunLog::new(
            self.folder.clone(),
            self.name,
            &self.metrics,
            session.clone(),
            (self.resume.as_ref()).map_or_else(Rows::new, |checkpoint| checkpoint.rows.clone()),
            self.watch,
            self.event_file(),
        )?;

        let stderr = LastingStderr::new();
        let mut training =
            SupervisedTraining::new(self.folder.checkpoints(), Arc::new(train), Arc::new(valid))
                .with_training_strategy(TrainingStrategy::Default(execution))
                .with_application_logger(None)
                .with_interrupter(session.learner())
                .with_metric_logger(log)
                .with_custom_checkpointers(model_part, optimizer_part, scheduler_part)
                .with_checkpointing_strategy(writer)
                .early_stopping(StopOnRequest(session.clone()))
                .label(self.name)
                .num_epochs(self.last_round())
                .renderer(self.renderer());
        for &kind in &self.metrics {
            training = training
                .metric_train_numeric(Gathered::new(kind, Of::Training, session.clone()))
                .metric_valid_numeric(Gathered::new(kind, Of::Validation, session.clone()));
        }
        if self.training.accumulate > 1 {
            training = training.grads_accumulation(self.training.accumulate);
        }
        if let Some(checkpoint) = &self.resume {
            checkpoint.require_weights_of(&model)?;
            // The Learner goes on with the epoch after this one: the round that the cursor is in, or the one that it has ended
            // if that was not validated.
            training = training.checkpoint(plan.rounds_before(first, owes_validation));
        }
        let learner = Learner::new(model, optimizer(&session), WarmupCosine::new(self.training));

        session.check_start()?;
        session.begin();
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| training.launch(learner)));
        let seconds = began.elapsed().as_secs_f64();
        let result = result.map(|result| {
            let LearningResult {
                model,
                renderer,
                error,
                ..
            } = result;
            dashboard::close(renderer);
            (model, error)
        });
        drop(stderr);
        let unwritten = session.unwritten();
        if !unwritten.is_empty()
            && let Err(error) = add_rows(&metrics, &unwritten)
        {
            tracing::warn!("{error}; --resume writes the row from the checkpoint");
        }
        if let Some(failure) = session.take_failure() {
            return Err(failure);
        }
        let (model, error) =
            result.map_err(|panic| TrainError::Learner(panic_message(panic.as_ref())))?;
        if let Some(error) = error {
            return Err(TrainError::Learner(match &*error {
                TrainingError::Dataset(error) => error.to_string(),
                error => error.to_string(),
            }));
        }
        Ok(Outcome {
            model,
            seconds,
            steps: session.steps_done() - first,
            steps_done: session.steps_done(),
            owes_validation: session.owes_validation(),
        })
    }

    /// The last round of this part of the training.
    fn last_round(&self) -> usize {
        match self.pause_after {
            Some(share) => self.plan.rounds_of_share(share),
            None => self.plan.rounds(),
        }
    }

    /// The event file of the first rank, if there is to be one. It begins with the experiment.
    fn event_file(&self) -> Option<EventFile> {
        let folder = self.folder.path();
        let first = self.session.steps_done();
        let goes_on = first > 0 && EventFile::is_in(folder);
        let is_wanted = self.session.ranks().is_first() && (self.tensorboard || goes_on);
        is_wanted.then(|| {
            let mut events = EventFile::new(folder, first + 1);
            let config = format!("```toml\n{}\n```", self.identity.config.trim_end());
            events.text(first, "config", &config);
            events
        })
    }

    fn execution(&self) -> Result<ExecutionStrategy, TrainError> {
        let devices: Vec<Device> = self
            .devices
            .all()
            .iter()
            .map(|device| device.clone().autodiff())
            .collect();
        match (self.strategy, devices.as_slice()) {
            (Strategy::Main, [device]) => {
                Ok(ExecutionStrategy::single(device.clone()))
            }
            // This one of Burn's two ways tells the device of each gradient. The other one sums them in the order in
            // which devices finish, so every run would have other bits. `update` sums them.
            (Strategy::Main, _) => Ok(ExecutionStrategy::multi(
                devices,
                MultiDeviceOptim::OptimSharded,
            )),
            (Strategy::Ddp, _) if !self.session.ranks().is_alone() => Err(TrainError::Strategy(
                "--strategy ddp knows the devices of one process only: start one rank a device, with --strategy main"
                    .to_owned(),
            )),
            (Strategy::Ddp, _) => self.ddp(devices),
        }
    }

    #[cfg(feature = "cuda")]
    fn ddp(&self, devices: Vec<Device>) -> Result<ExecutionStrategy, TrainError> {
        use burn::tensor::distributed::{DistributedConfig, ReduceOperation};
        if !self.devices.to_string().starts_with("cuda") {
            return Err(ddp_needs_cuda(self.devices));
        }
        Ok(ExecutionStrategy::ddp(
            devices,
            DistributedConfig {
                all_reduce_op: ReduceOperation::Sum,
            },
        ))
    }

    #[cfg(not(feature = "cuda"))]
    fn ddp(&self, _devices: Vec<Device>) -> Result<ExecutionStrategy, TrainError> {
        Err(ddp_needs_cuda(self.devices))
    }

    fn renderer(&self) -> Box<dyn MetricsRenderer> {
        if dashboard::has_terminal() {
            let (step, owes) = (self.session.steps_done(), self.session.owes_validation());
            return dashboard(&self.session, self.plan.rounds_before(step, owes));
        }
        Box::new(LineRenderer::new(
            self.plan.clone(),
            self.session.clone(),
            self.training.steps,
        ))
    }
}

fn ddp_needs_cuda(devices: &Devices) -> TrainError {
    TrainError::Strategy(format!(
        "--strategy ddp works between CUDA devices (kiln built with --features cuda), not on `{devices}`: use main"
    ))
}

/// Ends the training after a requested stop and its checkpoint.
#[derive(Clone)]
struct StopOnRequest(Session);

impl EarlyStoppingStrategy for StopOnRequest {
    fn should_stop(&mut self, _epoch: usize, _store: &EventStoreClient) -> bool {
        self.0.stop_requested()
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("an unknown panic")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
