//! One TOML file per experiment: the data, both networks, both stages and the sampling.
//!
//! An experiment without the tables of the first stage (`[vqvae]` with `[codebook]` or `[autoencoder_kl]`, and
//! `[stage_1]`) is in pixel space: the U-Net learns to denoise images.
//!
//! The file is strict: kiln refuses an unknown key, an impossible shape or a model that does not fit its data before
//! any work starts. The error has the key, the value and what would be valid.

mod adversarial;
mod classifier;
mod distillation;
mod equivariance;
mod evaluation;
pub(crate) mod experiment_error;
mod extent;
mod file;
mod first_stage;
mod first_stage_tables;
mod interval;
mod perceptual;
mod quantizer;
mod refusal;
mod sampler;
mod sampling;
mod second_stage;
mod tables;
mod term_weight;
mod training;
mod validation;

use std::path::Path;

use kiln_data::{DataConfig, is_on_the_hub};
use kiln_diffusion::{LevelOptions, Schedule, ScheduleConfig, SchedulerConfig};
use kiln_models::{SampleSize, TimeEmbeddingType, UNet2dConfig};
use serde::{Deserialize, Serialize};

pub use adversarial::{AdversarialConfig, DifferentiableChange};
pub use classifier::{Augmentation, ClassifierExperiment};
pub use distillation::{DistillationConfig, sampler_of_students};
pub use equivariance::EquivarianceConfig;
pub use evaluation::{Best, EvaluationConfig};
pub use experiment_error::ExperimentError;
pub use extent::Extent;
pub(crate) use file::overrides_in;
pub use file::{describes_classifier, key_of_override};
pub use first_stage::{FirstStageConfig, Stage1Config};
pub use interval::Interval;
pub use perceptual::PerceptualConfig;
pub use sampling::SamplingConfig;
pub use second_stage::{LatentNumbers, PosteriorLatents, Stage2Config};
pub use term_weight::{Balanced, TermWeight};
pub use training::TrainingConfig;

use experiment_error::within;
use file::{parse_table, read, remember, written};
use first_stage_tables::FirstStageTables;
use refusal::Described;
use tables::Tables;

/// A whole experiment, as its TOML file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Tables", into = "Tables")]
pub struct Experiment {
    /// Seeds the initial weights, the order of the data and all noise.
    pub seed: u64,
    /// The overrides of the file's keys, as `table.key=value`. A run folder's `config.toml` has them, so that a resumed
    /// run need not be told again.
    pub overrides: Vec<String>,
    /// The training data.
    pub data: DataConfig,
    /// The first stage; `None` in pixel space. In the file its parts are separate tables.
    pub first_stage: Option<FirstStageConfig>,
    /// The second stage's network, with the keys of diffusers' `UNet2DModel`.
    pub unet: UNet2dConfig,
    /// The diffusion schedule.
    pub schedule: ScheduleConfig,
    /// The training of the second stage.
    pub stage_2: Stage2Config,
    /// The drawing of pictures, during training and by the finished model.
    pub sampling: SamplingConfig,
}

impl Experiment {
    /// Reads the TOML file at `path`, applies `overrides` (each `table.key=value`, the value in TOML's notation
    /// or a bare word) and checks that the parts fit each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ExperimentError> {
        Self::parse(&read(path)?, &path.display().to_string(), overrides)
    }

    /// Like [`Experiment::load`], from text; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ExperimentError> {
        Self::parse_over(&toml::Table::new(), text, origin, overrides)
    }

    /// Like [`Experiment::parse`]. Keys that the text has not are those of `base`.
    pub(crate) fn parse_over(
        base: &toml::Table,
        text: &str,
        origin: &str,
        overrides: &[String],
    ) -> Result<Self, ExperimentError> {
        let tables: Tables = parse_table(text, origin, overrides, Described::Models, base)?;
        let mut experiment = Self::try_from(tables)?;
        if experiment.unet.time_embedding_type == TimeEmbeddingType::Learned {
            // It has a row for each.
            let timesteps = experiment.schedule.num_train_timesteps;
            experiment.unet.num_train_timesteps.get_or_insert(timesteps);
        }
        experiment.validate()?;
        experiment.complete();
        remember(&mut experiment.overrides, overrides);
        Ok(experiment)
    }

    /// Fills in the sizes in the networks' configs, which serve the readers of a finished model.
    fn complete(&mut self) {
        if let Some(first_stage) = &mut self.first_stage {
            first_stage.network.set_sample_size(self.data.size);
        }
        let [_, side, _] = self.sample_shape();
        self.unet
            .sample_size
            .get_or_insert(SampleSize::Square(side));
    }

    /// The shape of a sample in stage 2, `[channels, height, width]`: a latent or, in pixel space, an image.
    pub fn sample_shape(&self) -> [usize; 3] {
        let size = self.data.size;
        match &self.first_stage {
            Some(FirstStageConfig { network, .. }) => {
                let side = size / network.downscale_factor();
                [network.latent_dim(), side, side]
            }
            None => [self.data.channels, size, size],
        }
    }

    /// The schedule with its table of rates.
    pub fn build_schedule(&self) -> Result<Schedule, ExperimentError> {
        let schedule = within("schedule", Schedule::new(self.schedule.clone()))?;
        within("schedule", self.stage_2.prediction.validate(&schedule))?;
        Ok(schedule)
    }

    /// The scheduler of the finished model, for its `scheduler/`.
    pub fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            schedule: self.schedule.clone(),
            prediction: self.stage_2.prediction,
            clip: self.sampling.clip,
            levels: LevelOptions {
                spacing: self.sampling.spacing,
                ..Default::default()
            },
            sampler: self.sampling.sampler,
        }
    }

    /// This experiment for other users: without the paths of files on this machine, and without the list of overrides,
    /// because its keys have their values. Another user must give the paths of the data and of frozen networks' weights
    /// again.
    pub fn without_places(mut self) -> Self {
        self.overrides.clear();
        self.data.path = self.data.path.filter(|path| is_on_the_hub(path));
        if let Some(evaluation) = &mut self.stage_2.evaluation {
            evaluation.feature_weights = None;
        }
        let first_stage = self.first_stage.as_mut();
        if let Some(perceptual) = first_stage.and_then(|stage| stage.stage_1.perceptual.as_mut()) {
            perceptual.weights = None;
        }
        self
    }

    /// The experiment as TOML, as `config.toml` of a run folder keeps it.
    pub fn to_toml(&self) -> Result<String, ExperimentError> {
        written(self)
    }
}

impl TryFrom<Tables> for Experiment {
    type Error = ExperimentError;

    /// # Errors
    /// [`ExperimentError::HalfAFirstStage`] and [`ExperimentError::Exclusive`].
    fn try_from(tables: Tables) -> Result<Self, ExperimentError> {
        Ok(Self {
            seed: tables.seed,
            overrides: tables.overrides,
            data: tables.data,
            first_stage: FirstStageTables {
                vqvae: tables.vqvae,
                autoencoder_kl: tables.autoencoder_kl,
                codebook: tables.codebook,
                stage_1: tables.stage_1,
            }
            .into_config()?,
            unet: tables.unet,
            schedule: tables.schedule,
            stage_2: tables.stage_2,
            sampling: tables.sampling,
        })
    }
}

impl From<Experiment> for Tables {
    fn from(experiment: Experiment) -> Self {
        let first_stage = FirstStageTables::of(experiment.first_stage);
        Self {
            seed: experiment.seed,
            overrides: experiment.overrides,
            data: experiment.data,
            vqvae: first_stage.vqvae,
            autoencoder_kl: first_stage.autoencoder_kl,
            codebook: first_stage.codebook,
            stage_1: first_stage.stage_1,
            unet: experiment.unet,
            schedule: experiment.schedule,
            stage_2: experiment.stage_2,
            sampling: experiment.sampling,
        }
    }
}
