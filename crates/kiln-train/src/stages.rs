//! The stages from beginning to end: what `kiln train-vqvae`, `kiln train-latent-diffusion` and `kiln train-diffusion`
//! do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use kiln_checkpoint::{FirstStage, LatentDiffusion, Metadata, ModelSource};
use kiln_data::{Datasets, Progress, read_regular};
use kiln_eval::DigitClassifier;
use kiln_models::{FeatureMaps, WeightsType};
use safetensors::SafeTensors;
use serde::Serialize;

use crate::classifier::{self, DigitSource};
use crate::counted;
use crate::denoising::classes::Classes;
use crate::denoising::clean::CleanSets;
use crate::denoising::evaluation::{self, Evaluator};
use crate::denoising::latents::{Encoder, Latents};
use crate::denoising::noisy_source::NoisySource;
use crate::denoising::{self, Pictured};
use crate::error::TrainError;
use crate::experiment::{ClassifierExperiment, Experiment, TrainingConfig};
use crate::first_stage::{self, ImageSource};
use crate::learner::checkpoint::CheckpointFolder;
use crate::learner::launch::{Outcome, Stage};
use crate::learner::log::LOSS;
use crate::learner::plan::Plan;
use crate::learner::session::StopSignal;
use crate::memory::Trained;
use crate::options::RunOptions;
use crate::run_folder::claim::Claim;
use crate::run_folder::drawable::load_model;
use crate::run_folder::{RunFolder, StageFolder};
use crate::start::identity::{
    Identity, OF_STAGE_1, OF_STAGE_2, OF_THE_CLASSIFIER, ONLY_OF_STAGE_1, ONLY_OF_STAGE_2,
    VqVaeIdentity, say_what_stays, with_tables_of,
};
use crate::start::initial_weights::{self, EarlierSteps};
use crate::start::{Start, absolute};

/// How a stage went.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingReport {
    /// `vqvae`, `latent-diffusion`, `diffusion` or `classifier`.
    pub stage: &'static str,
    /// Steps done in all.
    pub steps: usize,
    /// Those of them that were done now, not before a resume. None where the stage was finished before.
    pub new_steps: usize,
    /// Steps that the experiment asks for.
    pub of_steps: usize,
    /// Whether a requested stop ended it early; a checkpoint was saved.
    pub interrupted: bool,
    /// Seconds that this run took, validation and pictures included.
    pub seconds: f64,
    /// Seconds of a pass over the training images, at this run's speed; absent where no step was done.
    pub seconds_per_pass: Option<f64>,
    /// The trained network, a folder or the classifier's file, if training is finished.
    pub model: Option<PathBuf>,
    /// The model of the best checkpoint, if drawn images were measured to find one.
    pub best: Option<PathBuf>,
}

impl TrainingReport {
    /// `model` is the place that the trained network goes to once it is finished.
    fn new<M>(
        stage: &'static str,
        outcome: &Outcome<M>,
        training: &TrainingConfig,
        plan: &Plan,
        model: PathBuf,
    ) -> Self {
        let finished = outcome.steps_done >= training.steps;
        let passes = plan.passes(outcome.steps);
        Self {
            stage,
            steps: outcome.steps_done,
            new_steps: outcome.steps,
            of_steps: training.steps,
            interrupted: !finished,
            seconds: outcome.seconds,
            seconds_per_pass: (passes > 0.0).then_some(outcome.seconds / passes),
            model: finished.then_some(model),
            best: None,
        }
    }

    /// Where there is nothing left to do: `model` holds what was trained, for as many steps as `trained` says.
    ///
    /// # Errors
    /// Those of [`Start::is_finished`].
    fn if_finished_before(
        stage: &'static str,
        start: &Start,
        of_steps: usize,
        model: PathBuf,
        trained: impl FnOnce(&Path) -> Option<usize>,
    ) -> Result<Option<Self>, TrainError> {
        let is_finished = start.is_finished(of_steps, || trained(&model))?;
        Ok(is_finished.then(|| Self {
            stage,
            steps: start.session.steps_done(),
            new_steps: 0,
            of_steps,
            interrupted: false,
            seconds: 0.0,
            seconds_per_pass: None,
            model: Some(model),
            best: None,
        }))
    }
}

impl fmt::Display for TrainingReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stage,
            steps,
            new_steps,
            of_steps,
            seconds,
            ..
        } = self;
        match &self.model {
            Some(model) if *new_steps == 0 => write!(
                formatter,
                "{stage}: finished before, after {}; the model is in {}; more steps than that (--set) would go on",
                counted(*steps, "step"),
                model.display()
            ),
            Some(model) => {
                let unit = if *new_steps == 1 { "step" } else { "steps" };
                write!(formatter, "{stage}: {new_steps} {unit} in {seconds:.0} s")?;
                if let Some(seconds) = self.seconds_per_pass {
                    write!(formatter, " ({seconds:.1} s a pass over the data)")?;
                }
                if new_steps != steps {
                    write!(formatter, ", {steps} in all")?;
                }
                write!(formatter, "; the model is in {}", model.display())?;
                match &self.best {
                    Some(best) => {
                        write!(
                            formatter,
                            ", that of the best checkpoint in {}",
                            best.display()
                        )
                    }
                    None => Ok(()),
                }
            }
            None => write!(
                formatter,
                "{stage}: stopped and saved after {steps} of {}; --resume continues",
                counted(*of_steps, "step")
            ),
        }
    }
}

/// Trains stage 1 and writes the VQ-VAE to `vqvae/model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Checkpoints that were written stay.
pub fn train_vqvae(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    let first_stage = experiment.first_stage().ok_or(TrainError::NoFirstStage)?;
    let training = &first_stage.stage_1.training;
    let run = RunFolder::new(&options.out);
    let folder = run.stage_1();
    options.devices.check_precision(training.precision)?;
    let trained = Trained {
        network: "vqvae",
        weights: first_stage.vqvae.num_weights()?,
        maps: FeatureMaps::of_vqvae(first_stage.vqvae, [experiment.data.size; 2]),
        table: "stage_1.training",
        training,
    };
    trained.check_memory(&options.devices)?;
    let mut claim = Claim::stake(&run, &folder, &folder.model(), &options.ranks)?;
    let start = start_of(experiment, options, &run, &folder, OF_STAGE_1)?;
    let session = start.session.clone();
    let trained = |model: &Path| {
        let model = FirstStage::load(&ModelSource::Folder(model.to_owned()), &Device::flex());
        steps_in(&model.ok()?.metadata.training)
    };
    let (steps, model) = (training.steps, folder.model());
    let report = TrainingReport::if_finished_before("vqvae", &start, steps, model, trained)?;
    if let Some(report) = report {
        return Ok(report);
    }
    let device = options.devices.first();
    let learning = device.clone().autodiff();
    let (seed, codebook) = (experiment.seed, &first_stage.codebook);
    let (initial, begun_with) =
        start.initial_weights(|folder| initial_weights::vqvae(folder, &first_stage, &learning))?;
    let data = start.find_data(&experiment.data);
    let datasets = options.datasets(&data, progress)?;
    options.stop.check()?;

    let images = datasets.train.len();
    first_stage.check_codes(images, experiment.data.size)?;
    let devices = options.devices.all().len();
    let plan = Plan::new(training, images, devices, experiment.seed).over(&options.ranks);
    let plan = Arc::new(plan);
    let earlier = begun_with.as_ref().map(|initial| initial.earlier_steps);
    let identity = start.identity(&data, &datasets, &plan, None, begun_with);
    start.begin(&identity)?;
    let network = match initial {
        Some(network) => network,
        None => {
            let network = first_stage.vqvae.init(&learning, seed)?;
            if codebook.kmeans_start && session.steps_done() == 0 {
                let images = &datasets.train;
                first_stage::with_kmeans_codes(
                    network,
                    &first_stage,
                    seed,
                    images,
                    &device,
                    progress,
                    &options.stop,
                )?
            } else {
                network
            }
        }
    };
    let trainee = first_stage::trainee(
        &first_stage,
        network,
        datasets.train.border(),
        &plan,
        folder.clone(),
        session.clone(),
    );
    let stage = Stage {
        name: "stage 1: VQ-VAE",
        folder: folder.clone(),
        training,
        metrics: first_stage::METRICS.to_vec(),
        best_by: LOSS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume: start.resume,
        identity,
    };
    let source = ImageSource::new(training, experiment.seed, datasets.clone(), plan.clone());
    let outcome = stage.train(trainee, source)?;
    claim.keep();
    let report = TrainingReport::new("vqvae", &outcome, training, &plan, folder.model());
    if report.model.is_some() && options.ranks.is_first() {
        let first_stage = FirstStage {
            network: outcome.model.into_networks().into_trained(),
            metadata: metadata(experiment, &datasets, outcome.steps_done, earlier),
        };
        first_stage.save(&folder.model(), WeightsType::F32)?;
    }
    Ok(report)
}

/// Trains stage 2 on the latents of a trained VQ-VAE and writes the whole model to `model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Checkpoints that were written stay.
pub fn train_latent_diffusion(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    if experiment.first_stage().is_none() {
        return Err(TrainError::NoFirstStage);
    }
    train_unet("latent-diffusion", experiment, options, progress)
}

/// Trains a U-Net on the images themselves and writes the model to `model` in the run folder.
///
/// # Errors
/// [`TrainError`] in one sentence. Checkpoints that were written stay.
pub fn train_diffusion(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    if experiment.first_stage().is_some() {
        return Err(TrainError::InLatentSpace);
    }
    train_unet("diffusion", experiment, options, progress)
}

/// Stage 2, in the latent space of the experiment's first stage or, without one, in pixel space. `name` is for the report.
fn train_unet(
    name: &'static str,
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    let training = &experiment.stage_2.training;
    let run = RunFolder::new(&options.out);
    let folder = run.stage_2();
    options.devices.check_precision(training.precision)?;
    let device = options.devices.first();
    let [_, height, width] = experiment.sample_shape();
    let trained = Trained {
        network: "unet",
        weights: experiment.unet.num_weights()?,
        maps: FeatureMaps::of_unet(&experiment.unet, [height, width]),
        table: "stage_2.training",
        training,
    };
    trained.check_memory(&options.devices)?;
    trained.check_pictures(experiment, &options.devices)?;
    let mut claim = Claim::stake(&run, &folder, &run.model(), &options.ranks)?;
    let start = start_of(experiment, options, &run, &folder, OF_STAGE_2)?;
    let session = start.session.clone();
    let trained = |model: &Path| {
        let model = LatentDiffusion::load(&ModelSource::Folder(model.to_owned()), &Device::flex());
        steps_in(&model.ok()?.metadata.training)
    };
    let (steps, model) = (training.steps, run.model());
    let report = TrainingReport::if_finished_before(name, &start, steps, model, trained)?;
    if let Some(report) = report {
        return Ok(report);
    }
    let first_stage = match experiment.first_stage() {
        Some(_) => Some(find_first_stage(&run, options, start.before(), &device)?),
        None => None,
    };
    let (first_stage, vqvae) = first_stage.unzip();
    if let Some(first_stage) = &first_stage {
        experiment.check_first_stage(&first_stage.network)?;
    }
    let learning = device.clone().autodiff();
    let (initial, begun_with) = start.initial_weights(|folder| {
        initial_weights::unet(folder, experiment, first_stage.as_ref(), &learning)
    })?;
    if let Some(warning) = experiment.build_schedule()?.warning() {
        tracing::warn!("{warning}");
    }
    let data = start.find_data(&experiment.data);
    let datasets = options.datasets(&data, progress)?;
    options.stop.check()?;
    let classes = Classes::of(experiment, &datasets)?;
    let (images, devices) = (datasets.train.len(), options.devices.all().len());
    let plan = Plan::new(training, images, devices, experiment.seed).over(&options.ranks);
    let plan = Arc::new(plan);
    let earlier = begun_with.as_ref().map(|initial| initial.earlier_steps);
    let identity = start.identity(&data, &datasets, &plan, vqvae, begun_with);
    start.begin(&identity)?;
    let (clean, first_stage) = match first_stage {
        Some(first_stage) => {
            let ranks = &options.ranks;
            ranks.require_same("VQ-VAE", first_stage.hash())?;
            let (clean, scaled) = ranks.first_then_others(|| {
                latent_space(
                    &run,
                    experiment,
                    &datasets,
                    first_stage,
                    &device,
                    progress,
                    &options.stop,
                )
            })?;
            (clean, Some(scaled))
        }
        None => (CleanSets::images(&datasets), None),
    };

    let network = match initial {
        Some(network) => network,
        None => experiment.unet.init(&learning, experiment.seed)?,
    };
    let measured = experiment.stage_2.evaluation.as_ref();
    // Rank 0 alone validates.
    let evaluator = measured.filter(|_| options.ranks.is_first()).map(|config| {
        let count = training.validated(datasets.validation.len()).len();
        let held_out = &datasets.validation;
        Evaluator::new(config, held_out, count, experiment.seed, &device, progress).map(Arc::new)
    });
    let pictured = Pictured {
        autoencoder: first_stage.as_ref().map(|stage| stage.network.clone()),
        border: datasets.train.border(),
        classes,
        evaluator: evaluator.transpose()?,
    };
    let model = |unet, steps| LatentDiffusion {
        first_stage: first_stage.clone(),
        unet,
        guide: None,
        scheduler: experiment.scheduler(),
        metadata: unet_metadata(experiment, &datasets, first_stage.as_ref(), earlier, steps),
    };
    let at_start = folder.start();
    if options.ranks.is_first() && !(at_start.is_dir() && session.steps_done() > 0) {
        model(network.clone(), 0).save(&at_start, WeightsType::F32)?;
    }
    let trainee = denoising::trainee(
        experiment,
        network,
        pictured,
        &plan,
        folder.clone(),
        session.clone(),
    )?;
    let checkpoints = CheckpointFolder::new(folder.checkpoints());
    let stage = Stage {
        name: match &first_stage {
            Some(_) => "stage 2: latent diffusion",
            None => "diffusion in pixel space",
        },
        folder,
        training,
        metrics: [
            &denoising::metrics(experiment.stage_2.loss),
            evaluation::metrics(measured),
        ]
        .concat(),
        best_by: evaluation::best_by(measured),
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume: start.resume,
        identity,
    };
    let source = NoisySource::new(experiment, clean, classes, plan.clone())?;
    let outcome = stage.train(trainee, source)?;
    claim.keep();
    let mut report = TrainingReport::new(name, &outcome, training, &plan, run.model());
    if report.model.is_some() && options.ranks.is_first() {
        let trained = outcome.model.into_networks().into_trained();
        model(trained, outcome.steps_done).save(&run.model(), WeightsType::F32)?;
        if let (Some(_), Some(step)) = (measured, checkpoints.best()) {
            let best = load_model(&checkpoints.path(step), &device)?;
            best.save(&run.best(), WeightsType::F32)?;
            report.best = Some(run.best());
        }
    }
    Ok(report)
}

/// Trains the digit classifier and writes its weights to `model.safetensors` in the run folder, as 16-bit numbers.
///
/// # Errors
/// [`TrainError`] in one sentence. Checkpoints that were written stay.
pub fn train_classifier(
    experiment: &ClassifierExperiment,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    let training = &experiment.training;
    let run = RunFolder::new(&options.out);
    let folder = run.classifier();
    options.devices.check_precision(training.precision)?;
    let path = run.classifier_weights();
    let mut claim = Claim::stake(&run, &folder, &path, &options.ranks)?;
    let reread = |text: &str| ClassifierExperiment::parse(text, BEFORE, &[])?.to_toml();
    let config = experiment.to_toml()?;
    let start = Start::new(options, &run, &folder, OF_THE_CLASSIFIER, config, reread)?;
    let session = start.session.clone();
    let trained = |path: &Path| steps_in(&facts_in(path)?);
    let (steps, model) = (training.steps, path.clone());
    let report = TrainingReport::if_finished_before("classifier", &start, steps, model, trained)?;
    if let Some(report) = report {
        return Ok(report);
    }
    let data = start.find_data(&experiment.data);
    let datasets = options.datasets(&data, progress)?;
    options.stop.check()?;
    for set in [&datasets.train, &datasets.validation] {
        let digit = |image| {
            set.label(image)
                .filter(|&label| label < DigitClassifier::CLASSES)
        };
        if !(0..set.len()).all(|image| digit(image).is_some()) {
            return Err(TrainError::Run(format!(
                "the images of {} have no labels from 0 to 9 for the classifier to learn: give it MNIST, or a relative of ten classes",
                set.name()
            )));
        }
    }

    let devices = options.devices.all().len();
    let images = datasets.train.len();
    let plan = Plan::new(training, images, devices, experiment.seed).over(&options.ranks);
    let plan = Arc::new(plan);
    let identity = start.identity(&data, &datasets, &plan, None, None);
    start.begin(&identity)?;
    let device = options.devices.first();
    let trainee = classifier::trainee(experiment, &plan, session.clone(), &device);
    let stage = Stage {
        name: "digit classifier",
        folder,
        training,
        metrics: classifier::METRICS.to_vec(),
        best_by: LOSS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session,
        resume: start.resume,
        identity,
    };
    let source = DigitSource::new(experiment, datasets.clone(), plan.clone());
    let outcome = stage.train(trainee, source)?;
    claim.keep();
    let report = TrainingReport::new("classifier", &outcome, training, &plan, path);
    if let Some(path) = &report.model
        && options.ranks.is_first()
    {
        let facts = training_facts(experiment.seed, &datasets, outcome.steps_done);
        let classifier = outcome.model.into_networks().into_trained();
        kiln_models::save_weights(&classifier, path, WeightsType::F16, &facts)?;
    }
    Ok(report)
}

/// The latents of the images, scaled to a standard deviation of one over the training set, and the first stage that
/// knows by how much.
fn latent_space(
    run: &RunFolder,
    experiment: &Experiment,
    datasets: &Datasets,
    mut first_stage: FirstStage,
    device: &Device,
    progress: &dyn Progress,
    stop: &StopSignal,
) -> Result<(CleanSets, FirstStage), TrainError> {
    let cache = run.latents(&first_stage.hash());
    let encoder = Encoder {
        first_stage: &first_stage,
        // As many fit into memory while they are trained on, so they do now.
        together: (experiment.first_stage()).map_or(1, |stage| stage.stage_1.training.batch_size),
        device,
        progress,
        stop,
    };
    let latents = Latents::open(&cache, datasets, &encoder)?;
    let deviation = latents.train.standard_deviation();
    if !(deviation.is_finite() && deviation > 0.0) {
        return Err(TrainError::Run(format!(
            "the latents of this VQ-VAE have a standard deviation of {deviation}, so there is nothing to learn from them: train stage 1 again"
        )));
    }
    let factor = 1.0 / deviation;
    first_stage.network = first_stage.network.with_scaling_factor(factor);
    let clean = CleanSets::latents(datasets, latents, &first_stage.network);
    Ok((clean, first_stage))
}

/// The VQ-VAE for stage 2: the one named, or that of the run so far, or the run folder's own, or that of the model whose
/// weights stage 2 begins with.
///
/// # Errors
/// If there is none, or another one than that of the run so far.
fn find_first_stage(
    run: &RunFolder,
    options: &RunOptions,
    before: Option<&Identity>,
    device: &Device,
) -> Result<(FirstStage, VqVaeIdentity), TrainError> {
    let own = run.stage_1().model();
    let known = before.and_then(|before| before.vqvae.as_ref()?.place.clone());
    let places = [
        options.vqvae.clone(),
        known.clone().filter(|place| place.exists()),
        own.exists().then(|| own.clone()),
        options.initial_weights.clone(),
    ];
    if options.vqvae.is_none()
        && let Some(lost) = known.filter(|place| !place.exists())
        && !own.exists()
    {
        return Err(TrainError::Run(format!(
            "the VQ-VAE that this run began with is no longer in {}: say by --vqvae where it is now",
            lost.display()
        )));
    }
    let Some(folder) = places.into_iter().flatten().next() else {
        return Err(TrainError::Run(format!(
            "{} has no trained VQ-VAE yet: run `kiln train-vqvae` with the same --out first, or name one with --vqvae",
            run.path().display()
        )));
    };
    let first_stage = FirstStage::load(&ModelSource::Folder(folder.clone()), device)?;
    let hash = first_stage.hash();
    if let Some(before) = before {
        before.require_vqvae(&hash, &folder)?;
    }
    let place = Some(folder.as_path())
        .filter(|&folder| folder != own)
        .and_then(absolute);
    Ok((first_stage, VqVaeIdentity { hash, place }))
}

/// What the run so far is called where its experiment is wrong.
const BEFORE: &str = "the experiment of the run so far";

/// The beginning of a stage of `experiment` in `folder`, of which `tables` decide what it learns.
fn start_of<'a>(
    experiment: &Experiment,
    options: &'a RunOptions,
    run: &'a RunFolder,
    folder: &StageFolder,
    tables: &'static [&'static str],
) -> Result<Start<'a>, TrainError> {
    let reread = |text: &str| Experiment::parse(text, BEFORE, &[])?.to_toml();
    let mut config = experiment.to_toml()?;
    // The other stage was not run as this one is told that it would be, but as the run's file says.
    let has_begun_stage_2 = || {
        let checkpoints = CheckpointFolder::new(run.stage_2().checkpoints());
        !checkpoints.steps().is_empty()
    };
    let (other, its_tables, is_fixed) = if tables == OF_STAGE_2 {
        ("stage 1", ONLY_OF_STAGE_1, run.stage_1().model().exists())
    } else {
        ("stage 2", ONLY_OF_STAGE_2, has_begun_stage_2())
    };
    if is_fixed && let Ok(before) = Experiment::load(&run.config(), &[]) {
        let kept = with_tables_of(&before.to_toml()?, &config, its_tables)?;
        if let Ok(kept) = reread(&kept) {
            let why = format!(
                "{other} has been trained, so its keys can only be set where it goes on itself"
            );
            if options.ranks.is_first() {
                say_what_stays(&why, &kept, &config)?;
            }
            config = kept;
        }
    }
    Start::new(options, run, folder, tables, config, reread)
}

/// The steps that a model has learnt for, by the facts about its training.
fn steps_in(facts: &BTreeMap<String, String>) -> Option<usize> {
    facts.get("steps")?.parse().ok()
}

/// Many times the size of a classifier's weights, in bytes.
const LARGEST_CLASSIFIER: u64 = 64 << 20;

/// The facts in the header of the classifier's weights, where there are any.
fn facts_in(weights: &Path) -> Option<BTreeMap<String, String>> {
    let bytes = read_regular(weights, LARGEST_CLASSIFIER).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    Some(header.metadata().clone()?.into_iter().collect())
}

/// How a model was trained, for its weights file.
fn training_facts(seed: u64, datasets: &Datasets, steps: usize) -> BTreeMap<String, String> {
    let facts = [
        ("dataset", datasets.train.name().to_owned()),
        ("images", datasets.train.len().to_string()),
        ("seed", seed.to_string()),
        ("steps", steps.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Facts about a network that has learnt from `datasets` for so many steps, and for `earlier` ones before.
fn metadata(
    experiment: &Experiment,
    datasets: &Datasets,
    steps: usize,
    earlier: Option<EarlierSteps>,
) -> Metadata {
    let mut training = training_facts(experiment.seed, datasets, steps);
    if let Some(earlier) = earlier {
        earlier.note(&mut training);
    }
    Metadata {
        border: datasets.train.border(),
        class_names: datasets.train.class_names().to_vec(),
        training,
        ..Metadata::default()
    }
}

/// Facts about a U-Net after `steps` steps, learnt as `experiment` says from `datasets`, in the latents of `first_stage`.
fn unet_metadata(
    experiment: &Experiment,
    datasets: &Datasets,
    first_stage: Option<&FirstStage>,
    earlier: Option<EarlierSteps>,
    steps: usize,
) -> Metadata {
    let mut metadata = metadata(experiment, datasets, steps, earlier);
    metadata.sampling_steps = Some(experiment.sampling.steps);
    metadata.sampling_count = Some(experiment.sampling.count);
    let scheduler = experiment.scheduler();
    let mut add = |name: &str, value| metadata.training.insert(name.to_owned(), value);
    add("schedule", scheduler.schedule.kind.name().to_owned());
    add("prediction", scheduler.prediction.name().to_owned());
    if let Some(first_stage) = first_stage {
        let factor = first_stage.network.config().scaling_factor();
        add("scaling_factor", factor.to_string());
    }
    metadata
}
