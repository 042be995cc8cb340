//! One script for every stage, from its folder to its trained model.
//!
//! [`Stage`] is what a stage must say for itself; [`train`] asks it in order.

pub(crate) mod initial_weights;
pub(crate) mod memory;
pub mod options;
pub mod outlook;
mod resume;
pub(crate) mod start;
pub mod training_report;
pub mod trial;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_data::{DataConfig, Datasets, Progress};
use kiln_pipeline::Devices;

use crate::error::TrainError;
use crate::experiment::TrainingConfig;
use crate::learner::launch::Training;
use crate::learner::loader::BatchSource;
use crate::learner::log::Watch;
use crate::learner::plan::Plan;
use crate::learner::recipe::{Recipe, Trainee};
use crate::learner::report::MetricKind;
use crate::learner::session::Session;
use crate::run_folder::claim::Claim;
use crate::run_folder::facts::EarlierSteps;
use crate::run_folder::identity::{InitialWeights, PerceptualIdentity, VqVaeIdentity};
use crate::run_folder::{RunFolder, StageFolder};
use crate::script::options::RunOptions;
use crate::script::start::Start;
use crate::script::training_report::TrainingReport;

/// A stage of an experiment. The script calls its functions in this order.
pub(crate) trait Stage: Sized {
    type Recipe: Recipe;
    type Source: BatchSource<
            Batch = <Self::Recipe as Recipe>::Batch,
            Validation = <Self::Recipe as Recipe>::Validation,
        >;
    /// The networks at its beginning.
    type Found;

    /// Its name in a report.
    fn name(&self) -> &'static str;
    fn training(&self) -> &TrainingConfig;
    /// The experiment's table of these settings.
    fn table(&self) -> &'static str;
    fn data(&self) -> &DataConfig;
    fn seed(&self) -> u64;
    /// Its folder.
    fn folder(&self, run: &RunFolder) -> StageFolder;
    /// The destination of the trained network.
    fn model(&self, run: &RunFolder) -> PathBuf;

    /// Refuses what does not fit into memory.
    fn check_memory(&self, devices: &Devices) -> Result<(), TrainError>;
    /// The peak memory of the training, in bytes, if there is an estimate.
    fn memory(&self, devices: &Devices) -> Result<Option<f64>, TrainError>;
    /// The networks that it trains on `datasets`, each by the name of its table, with the number of its weights.
    fn weights(&self, datasets: &Datasets) -> Result<Vec<(&'static str, usize)>, TrainError>;
    /// Finds earlier parts of the training.
    fn start<'a>(
        &self,
        options: &'a RunOptions,
        run: &'a RunFolder,
        folder: &StageFolder,
    ) -> Result<Start<'a>, TrainError>;
    /// The number of training steps of the network in `model`.
    fn steps_of(&self, model: &Path) -> Option<usize>;
    /// Looks for networks that were trained before. It may download frozen ones.
    fn find(
        &self,
        start: &Start<'_>,
        run: &RunFolder,
        progress: &dyn Progress,
    ) -> Result<Found<Self::Found>, TrainError>;
    /// Refuses data that it cannot learn from.
    fn check_data(&self, datasets: &Datasets) -> Result<(), TrainError>;
    /// Prepares the module and the data for the Learner.
    fn prepare<'a>(
        &'a self,
        found: Self::Found,
        scene: &'a Scene<'a>,
    ) -> Result<Prepared<'a, Self::Recipe, Self::Source>, TrainError>;
}

/// The networks at the beginning of a stage, and their identity for its checkpoints.
pub(crate) struct Found<N> {
    pub(crate) networks: N,
    pub(crate) vqvae: Option<VqVaeIdentity>,
    pub(crate) perceptual: Option<PerceptualIdentity>,
    pub(crate) begun_with: Option<InitialWeights>,
}

/// The place, devices and data of a stage's training.
pub(crate) struct Scene<'a> {
    pub(crate) options: &'a RunOptions,
    pub(crate) run: &'a RunFolder,
    pub(crate) folder: StageFolder,
    pub(crate) datasets: Datasets,
    pub(crate) plan: Arc<Plan>,
    pub(crate) session: Session,
    /// The model whose weights the stage began with, if it did.
    pub(crate) begun_with: Option<InitialWeights>,
    pub(crate) progress: &'a dyn Progress,
}

impl Scene<'_> {
    /// The number of training steps of the initial weights.
    pub(crate) fn earlier_steps(&self) -> Option<EarlierSteps> {
        Some(self.begun_with.as_ref()?.earlier_steps)
    }
}

/// A stage that is ready for the Learner.
pub(crate) struct Prepared<'a, R: Recipe, S> {
    /// The title of the curves and the dashboard.
    pub(crate) title: &'static str,
    pub(crate) trainee: Trainee<R>,
    pub(crate) source: S,
    /// The first one is the loss.
    pub(crate) metrics: Vec<MetricKind>,
    /// The metric that is smallest at the best checkpoint.
    pub(crate) best_by: &'static str,
    /// Looks for what goes wrong after each round.
    pub(crate) watch: Watch,
    pub(crate) save: Save<'a, R>,
}

/// Writes the networks, trained for this many steps, to their place. Returns the place of the best checkpoint's model,
/// if there is one.
pub(crate) type Save<'a, R> =
    Box<dyn FnOnce(<R as Recipe>::Networks, usize) -> Result<Option<PathBuf>, TrainError> + 'a>;

/// Trains a stage.
///
/// # Errors
/// [`TrainError`] in one sentence. Written checkpoints stay.
pub(crate) fn train<S: Stage>(
    stage: &S,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    let (training, name) = (stage.training(), stage.name());
    let run = RunFolder::new(&options.out);
    let (folder, model) = (stage.folder(&run), stage.model(&run));
    options.devices.check_precision(training.precision)?;
    stage.check_memory(&options.devices)?;
    let mut claim = Claim::stake(&run, &folder, &model, &options.ranks)?;
    options.stop.on_leaving(claim.dropping());
    let start = stage.start(options, &run, &folder)?;
    let trained = |model: &Path| stage.steps_of(model);
    let report =
        TrainingReport::if_finished_before(name, &start, training.steps, model.clone(), trained)?;
    if let Some(report) = report {
        claim.keep(); // It may have a new name.
        return Ok(report);
    }
    let found = stage.find(&start, &run, progress)?;
    let data = start.find_data(stage.data());
    let datasets = options.datasets(&data, progress)?;
    options.stop.check()?;
    stage.check_data(&datasets)?;

    let (passes, devices) = (datasets.train.passes(), options.devices.all().len());
    let plan = Plan::new(training, passes, devices, stage.seed()).over(&options.ranks);
    plan.check(stage.table())?;
    let plan = Arc::new(plan);
    let identity = start.identity(
        &data,
        &datasets,
        &plan,
        found.vqvae,
        found.perceptual,
        found.begun_with.clone(),
    );
    start.begin(&identity)?;
    let scene = Scene {
        options,
        run: &run,
        folder: folder.clone(),
        datasets,
        plan: plan.clone(),
        session: start.session.clone(),
        begun_with: found.begun_with,
        progress,
    };
    let Prepared {
        title,
        trainee,
        source,
        metrics,
        best_by,
        watch,
        save,
    } = stage.prepare(found.networks, &scene)?;
    let learner = Training {
        name: title,
        folder,
        training,
        metrics,
        best_by,
        watch,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: start.session.clone(),
        resume: start.resume,
        identity,
        tensorboard: options.tensorboard,
        pause_after: options.pause_after,
    };
    let outcome = learner.train(trainee, source)?;
    claim.keep();
    let mut report = TrainingReport::new(name, &outcome, training, &plan, model);
    if report.model.is_some() && options.ranks.is_first() {
        report.best = save(outcome.model.into_networks(), outcome.steps_done)?;
    }
    Ok(report)
}
