//! One TOML file per experiment: the data, both networks, both stages and the sampling.
//!
//! An experiment without the tables of the first stage (`[vqvae]`, `[codebook]`, `[stage_1]`) is in pixel space: the
//! U-Net learns to denoise images.
//!
//! The file is strict: kiln refuses an unknown key, an impossible shape or a model that does not fit its data before
//! any work starts. The error has the key, the value and what would be valid.

mod classifier;
pub(crate) mod config_error;
mod evaluation;
mod file;
mod interval;
mod refusal;
mod sampler;
mod tables;
mod training;
mod validation;

use std::path::Path;

use kiln_data::DataConfig;
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{
    Clip, Distance, LevelOptions, Loss, LossWeight, NoiseLevels, Prediction, Schedule,
    ScheduleConfig, SchedulerConfig, Spacing,
};
use kiln_models::bottleneck::vq::CodebookConfig;
use kiln_models::{SampleSize, TimeEmbeddingType, UNet2dConfig, VqVaeConfig};
use serde::{Deserialize, Serialize};

pub use classifier::{Augmentation, ClassifierExperiment};
pub use config_error::ConfigError;
pub use evaluation::{Best, EvaluationConfig};
pub use file::overrides_of_run;
pub use interval::Interval;
pub use training::TrainingConfig;

use config_error::within;
use file::{parse_table, read, remember, written};
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

/// The first stage of an experiment: the tables `[vqvae]`, `[codebook]` and `[stage_1]`.
#[derive(Debug, Clone)]
pub struct FirstStageConfig {
    /// The network, with the keys of diffusers' `VQModel`.
    pub vqvae: VqVaeConfig,
    /// The training of its codebook.
    pub codebook: CodebookConfig,
    /// The training of the network.
    pub stage_1: Stage1Config,
}

impl FirstStageConfig {
    /// Refuses a codebook with more codes than the `images` of this side have latent vectors: some codes could never be
    /// used.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn check_codes(&self, images: usize, side: usize) -> Result<(), ConfigError> {
        let codes = self.vqvae.num_vq_embeddings;
        let of_an_image = (side / self.vqvae.downscale_factor()).pow(2);
        let vectors = images.saturating_mul(of_an_image);
        if codes <= vectors {
            return Ok(());
        }
        Err(ConfigError::Value {
            key: "vqvae.num_vq_embeddings".to_owned(),
            value: codes.to_string(),
            valid: format!(
                "the {images} training images have {vectors} latent vectors, so use fewer codes than that"
            ),
        })
    }
}

/// The training of the VQ-VAE: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage1Config {
    /// Distance between an image and its reconstruction.
    #[serde(default)]
    pub reconstruction: Distance,
    /// Weight of the commitment term, beta in van den Oord et al. 2017, equation 3.
    #[serde(default = "default_commitment")]
    pub commitment: f64,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
}

/// The training of the U-Net: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage2Config {
    /// The meaning of the network's output.
    #[serde(default = "default_prediction")]
    pub prediction: Prediction,
    /// Distance between the prediction and the truth.
    #[serde(default)]
    pub loss: Distance,
    /// The component whose distance counts. If absent: the predicted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<Prediction>,
    /// The weight of each noise level in the loss.
    #[serde(default)]
    pub loss_weight: LossWeight,
    /// The distribution of the training images' noise.
    #[serde(default)]
    pub noise_levels: NoiseLevels,
    /// Share of the images that are shown without their class, in [0, 1). Classifier-free guidance needs it (Ho and
    /// Salimans 2022). Only for a U-Net with classes.
    #[serde(default)]
    pub label_dropout: f64,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
    /// Distances between drawn and real images, measured now and then. If absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
}

impl Stage2Config {
    /// The loss that the network minimises.
    pub fn objective(&self) -> Loss {
        Loss {
            prediction: self.prediction,
            on: self.loss_on.unwrap_or(self.prediction),
            distance: self.loss,
            weight: self.loss_weight,
        }
    }
}

/// The drawing of pictures.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Denoising steps of the pictures drawn during training.
    pub steps: usize,
    /// Images in such a picture. With classes each class has a row, and the number of columns is rounded down, but at
    /// least one.
    pub count: usize,
    /// The sampler: a name, or a table with the sampler's settings.
    #[serde(deserialize_with = "sampler::by_name_or_table")]
    pub sampler: Sampler,
    /// The choice of timesteps that the sampler visits.
    pub spacing: Spacing,
    /// The clipping of predicted clean latents or, in pixel space, images: a number (1 for pixels), or dynamic
    /// thresholding. If absent: no clipping.
    pub clip: Option<Clip>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            steps: 50,
            count: 64,
            sampler: Sampler::default(),
            spacing: Spacing::Trailing,
            clip: None,
        }
    }
}

fn default_commitment() -> f64 {
    0.25
}
fn default_prediction() -> Prediction {
    Prediction::Noise
}

impl Experiment {
    /// Reads the TOML file at `path`, applies `overrides` (each `table.key=value`, the value in TOML's notation
    /// or a bare word) and checks that the parts fit each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, &path.display().to_string(), overrides)
    }

    /// Like [`Experiment::load`], from text; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let tables: Tables = parse_table(text, origin, overrides, Described::Models)?;
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
            first_stage.vqvae.sample_size = self.data.size;
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
            Some(FirstStageConfig { vqvae, .. }) => {
                let side = size / vqvae.downscale_factor();
                [vqvae.latent_dim(), side, side]
            }
            None => [self.data.channels, size, size],
        }
    }

    /// The schedule with its table of rates.
    pub fn build_schedule(&self) -> Result<Schedule, ConfigError> {
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
    /// because its keys have their values. Another user must give the paths of the data and of the feature weights
    /// again.
    pub fn without_places(mut self) -> Self {
        self.overrides.clear();
        self.data.path = self.data.path.filter(|path| is_on_the_hub(path));
        if let Some(evaluation) = &mut self.stage_2.evaluation {
            evaluation.feature_weights = None;
        }
        self
    }

    /// The experiment as TOML, as `config.toml` of a run folder keeps it.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        written(self)
    }
}

/// Whether a data path names a data set on the Hub.
pub(crate) fn is_on_the_hub(path: &Path) -> bool {
    path.to_string_lossy().starts_with("hf:")
}
