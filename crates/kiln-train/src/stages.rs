//! The stages from beginning to end: what `kiln train-vqvae`, `kiln train-latent-diffusion` and `kiln train-diffusion`
//! do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use kiln_data::{DataConfig, Datasets, Progress};
use kiln_eval::DigitClassifier;
use kiln_hub::{FirstStage, HubSettings, LatentDiffusion, Metadata, ModelSource, open_data_set};
use kiln_models::{Autoencoder, WeightsType};
use serde::Serialize;

use crate::classes::Classes;
use crate::classifier_stage::{self, ClassifierTrainee, DigitSource};
use crate::clean::CleanSets;
use crate::devices::Devices;
use crate::diffusion_stage::{self, DiffusionTrainee, Pictured};
use crate::error::TrainError;
use crate::evaluation::{self, Evaluator};
use crate::experiment::{ClassifierExperiment, Experiment, TrainingConfig};
use crate::initial_weights::{self, EarlierSteps};
use crate::latents::Latents;
use crate::launch::{Outcome, Stage, Strategy, find_checkpoint, session};
use crate::log::LOSS;
use crate::noisy_source::NoisySource;
use crate::plan::Plan;
use crate::ranks::Ranks;
use crate::run_folder::{RunFolder, write_atomically};
use crate::session::StopSignal;
use crate::vqvae_stage::{self, ImageSource, VqVaeTrainee};

/// Where a training takes place and how.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The run folder. It gets `config.toml`, `vqvae/` and `diffusion/` (checkpoints, `metrics.csv`, `curves.svg`,
    /// pictures), `latents/`, and in the end `model/` in the diffusers layout.
    pub out: PathBuf,
    /// Go on from the newest good checkpoint, if there is one.
    pub resume: bool,
    /// The images to train on in place of the data set that the experiment names; they must have the shape that its
    /// `[data]` says.
    pub data: Option<Datasets>,
    /// Where a data set comes from that is on the Hub.
    pub hub: HubSettings,
    /// What computes.
    pub devices: Devices,
    /// How several devices share the work.
    pub strategy: Strategy,
    /// The processes that train together, each on its own `devices`, with one run folder that all of them see.
    pub ranks: Ranks,
    /// Latent diffusion: the VQ-VAE to use in place of the run folder's own.
    pub vqvae: Option<PathBuf>,
    /// A trained model, whose weights the network begins with in place of random ones. Its VQ-VAE serves latent
    /// diffusion where there is no other.
    pub initial_weights: Option<PathBuf>,
    /// Asks the training to save and stop.
    pub stop: StopSignal,
}

impl RunOptions {
    /// A training from its beginning, on one CPU, in the run folder `out`.
    pub fn new(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            resume: false,
            data: None,
            hub: HubSettings::from_environment(),
            devices: Devices::cpu(),
            strategy: Strategy::Main,
            ranks: Ranks::alone(),
            vqvae: None,
            initial_weights: None,
            stop: StopSignal::default(),
        }
    }

    /// The images to train on.
    fn datasets(
        &self,
        config: &DataConfig,
        progress: &dyn Progress,
    ) -> Result<Datasets, TrainError> {
        let datasets = self.own_datasets(config, progress)?;
        let fingerprint = datasets.train.fingerprint();
        self.ranks.require_same("training set", fingerprint)?;
        Ok(datasets)
    }

    fn own_datasets(
        &self,
        config: &DataConfig,
        progress: &dyn Progress,
    ) -> Result<Datasets, TrainError> {
        let Some(datasets) = &self.data else {
            return Ok(open_data_set(config, &self.hub, progress)?);
        };
        let expected = config.shape();
        for (name, set) in [
            ("training", &datasets.train),
            ("validation", &datasets.validation),
        ] {
            if set.is_empty() || set.shape() != expected {
                return Err(TrainError::Run(format!(
                    "the {name} set handed over has {} images of {:?}: it must have at least one, and all must be {expected:?} as data.size and data.channels say",
                    set.len(),
                    set.shape(),
                )));
            }
        }
        Ok(datasets.clone())
    }
}

/// How a stage went.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingReport {
    /// `vqvae`, `latent-diffusion`, `diffusion` or `classifier`.
    pub stage: &'static str,
    /// Steps done in all, and of how many.
    pub steps: usize,
    /// Steps that the experiment asks for.
    pub of_steps: usize,
    /// Whether a requested stop ended it early; a checkpoint was saved.
    pub interrupted: bool,
    /// Seconds that this run took, validation and pictures included.
    pub seconds: f64,
    /// Seconds of a pass over the training images, at this run's speed.
    pub seconds_per_pass: f64,
    /// The trained network, a folder or the classifier's file, if training is finished.
    pub model: Option<PathBuf>,
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
        let passes = plan.passes(outcome.steps).max(f64::MIN_POSITIVE);
        Self {
            stage,
            steps: outcome.steps_done,
            of_steps: training.steps,
            interrupted: !finished,
            seconds: outcome.seconds,
            seconds_per_pass: outcome.seconds / passes,
            model: finished.then_some(model),
        }
    }
}

impl fmt::Display for TrainingReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stage,
            steps,
            of_steps,
            seconds,
            seconds_per_pass,
            ..
        } = self;
        match &self.model {
            Some(model) => write!(
                formatter,
                "{stage}: {steps} steps in {seconds:.0} s ({seconds_per_pass:.1} s a pass over the data); the model is in {}",
                model.display()
            ),
            None => write!(
                formatter,
                "{stage}: stopped and saved after {steps} of {of_steps} steps; --resume continues"
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
    let resume = find_checkpoint(&folder, options.resume)?;
    let session = session(resume.as_ref(), &options.stop, &options.ranks);
    let device = options.devices.first();
    let learning = device.clone().autodiff();
    let (seed, codebook) = (experiment.seed, &first_stage.codebook);
    let initial = options.initial_weights.as_deref();
    let initial = initial.map(|folder| initial_weights::vqvae(folder, &first_stage, &learning));
    let (initial, earlier) = initial.transpose()?.unzip();
    prepare_folder(
        &run,
        &experiment.to_toml()?,
        options,
        session.steps_done(),
        &["seed", "data", "vqvae", "codebook"],
    )?;
    let datasets = options.datasets(&experiment.data, progress)?;

    let images = datasets.train.len();
    let devices = options.devices.all().len();
    let plan = Plan::new(training, images, devices, experiment.seed).over(&options.ranks);
    let plan = Arc::new(plan);
    let network = match initial {
        Some(network) => network,
        None => {
            let network = first_stage.vqvae.init(&learning, seed)?;
            if codebook.kmeans_start && session.steps_done() == 0 {
                let images = &datasets.train;
                vqvae_stage::with_kmeans_codes(network, codebook, seed, images, &device)?
            } else {
                network
            }
        }
    };
    let trainee = VqVaeTrainee::new(
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
        metrics: vqvae_stage::METRICS.to_vec(),
        best_by: LOSS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume,
    };
    let source = ImageSource::new(training, experiment.seed, datasets.clone(), plan.clone());
    let outcome = stage.train(trainee, source)?;
    let report = TrainingReport::new("vqvae", &outcome, training, &plan, folder.model());
    if report.model.is_some() && options.ranks.is_first() {
        let first_stage = FirstStage {
            network: Autoencoder::Vq(outcome.model.into_trained()),
            metadata: metadata(experiment, &datasets, training.steps, earlier),
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
    let run = RunFolder::new(&options.out);
    let device = options.devices.first();
    let first_stage = find_first_stage(&run, options, &device)?;
    experiment.check_first_stage(&first_stage.network)?;
    train_unet(experiment, options, progress, Some(first_stage))
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
    train_unet(experiment, options, progress, None)
}

/// Stage 2, in the latent space of `first_stage` or in pixel space.
fn train_unet(
    experiment: &Experiment,
    options: &RunOptions,
    progress: &dyn Progress,
    first_stage: Option<FirstStage>,
) -> Result<TrainingReport, TrainError> {
    let training = &experiment.stage_2.training;
    let run = RunFolder::new(&options.out);
    let folder = run.stage_2();
    options.devices.check_precision(training.precision)?;
    let device = options.devices.first();
    let resume = find_checkpoint(&folder, options.resume)?;
    let session = session(resume.as_ref(), &options.stop, &options.ranks);
    let learning = device.clone().autodiff();
    let initial = options.initial_weights.as_deref();
    let initial = initial
        .map(|folder| initial_weights::unet(folder, experiment, first_stage.as_ref(), &learning));
    let (initial, earlier) = initial.transpose()?.unzip();
    if let Some(warning) = experiment.build_schedule()?.warning() {
        tracing::warn!("{warning}");
    }
    prepare_folder(
        &run,
        &experiment.to_toml()?,
        options,
        session.steps_done(),
        &["seed", "data", "unet", "schedule"],
    )?;
    let datasets = options.datasets(&experiment.data, progress)?;
    let classes = Classes::of(experiment, &datasets)?;
    let (clean, first_stage) = match first_stage {
        Some(first_stage) => {
            let ranks = &options.ranks;
            ranks.require_same("VQ-VAE", first_stage.hash())?;
            let (clean, scaled) = ranks.first_then_others(|| {
                latent_space(&run, &datasets, first_stage, &device, progress)
            })?;
            (clean, Some(scaled))
        }
        None => (CleanSets::images(&datasets), None),
    };

    let (images, devices) = (datasets.train.len(), options.devices.all().len());
    let plan = Plan::new(training, images, devices, experiment.seed).over(&options.ranks);
    let plan = Arc::new(plan);
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
    let trainee = DiffusionTrainee::new(
        experiment,
        network,
        pictured,
        &plan,
        folder.clone(),
        session.clone(),
    )?;
    let (title, name) = match &first_stage {
        Some(_) => ("stage 2: latent diffusion", "latent-diffusion"),
        None => ("diffusion in pixel space", "diffusion"),
    };
    let stage = Stage {
        name: title,
        folder,
        training,
        metrics: [
            &diffusion_stage::metrics(experiment.stage_2.loss),
            evaluation::metrics(measured),
        ]
        .concat(),
        best_by: evaluation::best_by(measured),
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume,
    };
    let source = NoisySource::new(experiment, clean, classes, plan.clone())?;
    let outcome = stage.train(trainee, source)?;
    let report = TrainingReport::new(name, &outcome, training, &plan, run.model());
    if report.model.is_some() && options.ranks.is_first() {
        let scheduler = experiment.scheduler();
        let mut metadata = metadata(experiment, &datasets, training.steps, earlier);
        let mut add = |name: &str, value| metadata.training.insert(name.to_owned(), value);
        add("schedule", scheduler.schedule.kind.name().to_owned());
        add("prediction", scheduler.prediction.name().to_owned());
        if let Some(first_stage) = &first_stage {
            let factor = first_stage.network.scaling_factor();
            add("scaling_factor", factor.to_string());
        }
        let model = LatentDiffusion {
            first_stage,
            unet: outcome.model.into_trained(),
            guide: None,
            scheduler,
            metadata,
        };
        model.save(&run.model(), WeightsType::F32)?;
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
    let resume = find_checkpoint(&folder, options.resume)?;
    let session = session(resume.as_ref(), &options.stop, &options.ranks);
    let parts = ["seed", "data", "augmentation"];
    let steps_done = session.steps_done();
    prepare_folder(&run, &experiment.to_toml()?, options, steps_done, &parts)?;
    let datasets = options.datasets(&experiment.data, progress)?;
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
    let device = options.devices.first();
    let trainee = ClassifierTrainee::new(experiment, &plan, session.clone(), &device);
    let stage = Stage {
        name: "digit classifier",
        folder,
        training,
        metrics: classifier_stage::METRICS.to_vec(),
        best_by: LOSS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session,
        resume,
    };
    let source = DigitSource::new(experiment, datasets.clone(), plan.clone());
    let outcome = stage.train(trainee, source)?;
    let report = TrainingReport::new(
        "classifier",
        &outcome,
        training,
        &plan,
        run.classifier_weights(),
    );
    if let Some(path) = &report.model
        && options.ranks.is_first()
    {
        let facts = training_facts(experiment.seed, &datasets, training.steps);
        let classifier = outcome.model.into_trained();
        kiln_models::save_weights(&classifier, path, WeightsType::F16, &facts)?;
    }
    Ok(report)
}

/// The latents of the images, scaled to a standard deviation of one over the training set, and the first stage that
/// knows by how much.
fn latent_space(
    run: &RunFolder,
    datasets: &Datasets,
    mut first_stage: FirstStage,
    device: &Device,
    progress: &dyn Progress,
) -> Result<(CleanSets, FirstStage), TrainError> {
    let cache = run.latents(&first_stage.hash());
    let latents = Latents::open(&cache, datasets, &first_stage, device, progress)?;
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

/// The VQ-VAE for stage 2: the one named, or the run folder's own, or that of the model whose weights stage 2 begins with.
fn find_first_stage(
    run: &RunFolder,
    options: &RunOptions,
    device: &Device,
) -> Result<FirstStage, TrainError> {
    let own = run.stage_1().model();
    let own = own.exists().then_some(own);
    let named = options.vqvae.clone();
    let Some(folder) = named.or(own).or_else(|| options.initial_weights.clone()) else {
        return Err(TrainError::Run(format!(
            "{} has no trained VQ-VAE yet: run `kiln train-vqvae` with the same --out first, or name one with --vqvae",
            run.path().display()
        )));
    };
    Ok(FirstStage::load(&ModelSource::Folder(folder), device)?)
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
        vqvae_hash: None,
        training,
    }
}

/// Makes the run folder, notes in `config.toml` what is run, and refuses to go on with another experiment.
///
/// `parts` are the tables that a stage resumed after `steps_done` steps must not have changed; how long and how fast it
/// learns may change. All ranks must be about to do the same.
fn prepare_folder(
    run: &RunFolder,
    text: &str,
    options: &RunOptions,
    steps_done: usize,
    parts: &[&str],
) -> Result<(), TrainError> {
    let (version, ranks) = (env!("CARGO_PKG_VERSION"), &options.ranks);
    ranks.require_same("version of kiln", version)?;
    ranks.require_same("experiment", text)?;
    ranks.require_same("number of devices", options.devices.all().len().to_string())?;
    ranks.require_same("newest checkpoint", steps_done.to_string())?;
    if !ranks.is_first() {
        return Ok(());
    }
    if steps_done > 0 {
        let path = run.config();
        let before = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        let tables =
            |text: &str| toml::from_str::<BTreeMap<String, toml::Value>>(text).unwrap_or_default();
        let (before, now) = (tables(&before), tables(text));
        if let Some(part) = parts
            .iter()
            .find(|&&part| before.get(part) != now.get(part))
        {
            return Err(TrainError::Run(format!(
                "`{part}` differs from {}, which this run began with: resume with the same config, or choose another --out",
                path.display()
            )));
        }
    }
    let header = format!("# Written by kiln {version}: what this run was trained with.\n");
    write_atomically(&run.config(), (header + text).as_bytes())
}

#[cfg(test)]
mod tests {
    use kiln_data::{ImageDataset, ImageShape, NoProgress};

    use super::*;

    #[test]
    fn images_that_are_handed_over_have_the_shape_of_the_config() {
        let text = include_str!("../../../configs/mnist-quick.toml");
        let overrides = ["data.dataset=own".to_owned()];
        let experiment = Experiment::parse(text, "mnist-quick", &overrides).unwrap();
        let set = |side: usize, images: usize| {
            let shape = ImageShape {
                channels: 1,
                height: side,
                width: side,
            };
            ImageDataset::from_pixels("own", shape, vec![7; images * side * side], None).unwrap()
        };
        let found = |train, validation| {
            let options = RunOptions {
                data: Some(Datasets { train, validation }),
                ..RunOptions::new(Path::new("nowhere"))
            };
            options.datasets(&experiment.data, &NoProgress)
        };
        assert_eq!(found(set(32, 3), set(32, 1)).unwrap().train.len(), 3);
        for (train, validation, name) in [
            (set(16, 3), set(32, 1), "training"),
            (set(32, 3), set(16, 1), "validation"),
            (set(32, 3), set(32, 0), "validation"),
        ] {
            let sentence = found(train, validation).unwrap_err().to_string();
            assert!(sentence.contains(name), "{sentence}");
        }
        // Nothing handed over, although the config says so.
        let options = RunOptions::new(Path::new("nowhere"));
        let sentence = options.datasets(&experiment.data, &NoProgress).unwrap_err();
        assert!(sentence.to_string().contains("folder"), "{sentence}");
    }
}
