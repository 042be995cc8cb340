//! The two stages from beginning to end: what `kiln train-vqvae` and `kiln train-latent-diffusion` do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_data::{Datasets, Progress};
use kiln_hub::{FirstStage, LatentDiffusion, Metadata, ModelSource};
use kiln_models::WeightsType;
use serde::Serialize;

use crate::devices::Devices;
use crate::diffusion_stage::{self, DiffusionTrainee, LatentSource};
use crate::error::TrainError;
use crate::experiment::{Experiment, TrainingConfig};
use crate::latents::Latents;
use crate::launch::{Outcome, Stage, Strategy, find_checkpoint, session};
use crate::plan::Plan;
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
    /// What computes.
    pub devices: Devices,
    /// How several devices share the work.
    pub strategy: Strategy,
    /// Stage 2: the VQ-VAE to use in place of the run folder's own.
    pub vqvae: Option<PathBuf>,
    /// Asks the training to save and stop.
    pub stop: StopSignal,
}

impl RunOptions {
    /// A training from its beginning, on one CPU, in the run folder `out`.
    pub fn new(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            resume: false,
            devices: Devices::cpu(),
            strategy: Strategy::Main,
            vqvae: None,
            stop: StopSignal::default(),
        }
    }
}

/// How a stage went.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingReport {
    /// `vqvae` or `latent-diffusion`.
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
    /// The folder of the trained network, if training is finished.
    pub model: Option<PathBuf>,
}

impl TrainingReport {
    /// `model` is the folder that the trained network goes to once it is finished.
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
    let run = RunFolder::new(&options.out);
    let folder = run.stage_1();
    let precision = experiment.stage_1.training.precision;
    options.devices.check_precision(precision)?;
    let resume = find_checkpoint(&folder, options.resume)?;
    let session = session(resume.as_ref(), &options.stop);
    prepare_folder(
        &run,
        experiment,
        resume.is_some(),
        &["seed", "data", "vqvae", "codebook"],
    )?;
    let datasets = kiln_data::open(&experiment.data, progress)?;

    let training = &experiment.stage_1.training;
    let images = datasets.train.len();
    let plan = Arc::new(Plan::new(
        training,
        images,
        options.devices.all().len(),
        experiment.seed,
    ));
    let trainee = VqVaeTrainee::new(
        experiment,
        &datasets,
        &plan,
        folder.clone(),
        session.clone(),
        &options.devices.first(),
    )?;
    let stage = Stage {
        name: "stage 1: VQ-VAE",
        folder: folder.clone(),
        training,
        metrics: &vqvae_stage::METRICS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume,
    };
    let source = ImageSource::new(experiment, datasets.clone(), plan.clone());
    let outcome = stage.train(trainee, source)?;
    let report = TrainingReport::new("vqvae", &outcome, training, &plan, folder.model());
    if report.model.is_some() {
        let first_stage = FirstStage {
            vqvae: outcome.model.into_trained(),
            metadata: metadata(experiment, &datasets, training.steps),
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
    let run = RunFolder::new(&options.out);
    let folder = run.stage_2();
    let precision = experiment.stage_2.training.precision;
    options.devices.check_precision(precision)?;
    let device = options.devices.first();
    let resume = find_checkpoint(&folder, options.resume)?;
    let session = session(resume.as_ref(), &options.stop);
    let mut first_stage = find_first_stage(&run, options.vqvae.as_deref(), &device)?;
    experiment.check_first_stage(first_stage.vqvae.config())?;
    if let Some(warning) = experiment.build_schedule()?.warning() {
        tracing::warn!("{warning}");
    }
    prepare_folder(
        &run,
        experiment,
        resume.is_some(),
        &["seed", "data", "unet", "schedule"],
    )?;
    let datasets = kiln_data::open(&experiment.data, progress)?;

    let latents = Latents::open(
        &run.latents(&first_stage.hash()),
        &datasets,
        &first_stage,
        &device,
        progress,
    )?;
    let deviation = latents.train.standard_deviation();
    if !(deviation.is_finite() && deviation > 0.0) {
        return Err(TrainError::Run(format!(
            "the latents of this VQ-VAE have a standard deviation of {deviation}, so there is nothing to learn from them: train stage 1 again"
        )));
    }
    let scaling_factor = 1.0 / deviation;
    first_stage.vqvae = first_stage.vqvae.with_scaling_factor(scaling_factor);

    let training = &experiment.stage_2.training;
    let images = latents.train.len();
    let plan = Arc::new(Plan::new(
        training,
        images,
        options.devices.all().len(),
        experiment.seed,
    ));
    let border = datasets.train.border();
    let network = experiment
        .unet
        .init(&device.clone().autodiff(), experiment.seed)?;
    let trainee = DiffusionTrainee::new(
        experiment,
        network,
        first_stage.vqvae.clone(),
        border,
        &plan,
        folder.clone(),
        session.clone(),
    )?;
    let stage = Stage {
        name: "stage 2: latent diffusion",
        folder,
        training,
        metrics: &diffusion_stage::METRICS,
        devices: &options.devices,
        strategy: options.strategy,
        plan: plan.clone(),
        session: session.clone(),
        resume,
    };
    let flips = datasets.train.horizontal_flip();
    let source = LatentSource::new(experiment, latents, flips, scaling_factor, plan.clone())?;
    let outcome = stage.train(trainee, source)?;
    let report = TrainingReport::new("latent-diffusion", &outcome, training, &plan, run.model());
    if report.model.is_some() {
        let model = LatentDiffusion {
            first_stage: Some(first_stage),
            unet: outcome.model.into_trained(),
            scheduler: experiment.scheduler(),
            metadata: metadata(experiment, &datasets, training.steps),
        };
        model.save(&run.model(), WeightsType::F32)?;
    }
    Ok(report)
}

/// The VQ-VAE for stage 2: the one named, or the run folder's own.
fn find_first_stage(
    run: &RunFolder,
    named: Option<&Path>,
    device: &burn::tensor::Device,
) -> Result<FirstStage, TrainError> {
    let own = run.stage_1().model();
    if named.is_none() && !own.exists() {
        return Err(TrainError::Run(format!(
            "{} has no trained VQ-VAE yet: run `kiln train-vqvae` with the same --out first, or name one with --vqvae",
            run.path().display()
        )));
    }
    let folder = named.map_or(own, Path::to_owned);
    Ok(FirstStage::load(&ModelSource::Folder(folder), device)?)
}

fn metadata(experiment: &Experiment, datasets: &Datasets, steps: usize) -> Metadata {
    let facts = [
        ("dataset", datasets.train.name().to_owned()),
        ("images", datasets.train.len().to_string()),
        ("seed", experiment.seed.to_string()),
        ("steps", steps.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    Metadata {
        border: datasets.train.border(),
        class_names: datasets.train.class_names().to_vec(),
        vqvae_hash: None,
        training: facts.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

/// Makes the run folder, notes in `config.toml` what is run, and refuses to go on with another experiment.
///
/// `parts` are the tables that a resumed stage must not have changed; how long and how fast it learns may change.
fn prepare_folder(
    run: &RunFolder,
    experiment: &Experiment,
    resumed: bool,
    parts: &[&str],
) -> Result<(), TrainError> {
    let text = experiment.to_toml()?;
    if resumed {
        let path = run.config();
        let before = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        let tables =
            |text: &str| toml::from_str::<BTreeMap<String, toml::Value>>(text).unwrap_or_default();
        let (before, now) = (tables(&before), tables(&text));
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
    let header = format!(
        "# Written by kiln {}: what this run was trained with.\n",
        env!("CARGO_PKG_VERSION")
    );
    write_atomically(&run.config(), (header + &text).as_bytes())
}
