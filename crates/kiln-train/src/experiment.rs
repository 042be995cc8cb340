//! One TOML file per experiment: the data, both networks, both stages and how to sample.
//!
//! The file is strict: an unknown key, an impossible shape or a model that does not fit its data is refused
//! before any work starts, with the key, the value and what would be valid.

use std::path::{Path, PathBuf};

use kiln_data::DataConfig;
use kiln_diffusion::{Prediction, Schedule, ScheduleConfig, Spacing};
use kiln_models::ema::EmaConfig;
use kiln_models::quantizer::CodebookConfig;
use kiln_models::{UNet2dConfig, VqVaeConfig};
use serde::{Deserialize, Serialize};

/// A whole experiment, as its TOML file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Seeds the initial weights, the order of the data and all noise.
    #[serde(default)]
    pub seed: u64,
    /// What to train on.
    pub data: DataConfig,
    /// The first stage's network, in the keys of diffusers' `VQModel`.
    pub vqvae: VqVaeConfig,
    /// How the codebook is trained.
    #[serde(default)]
    pub codebook: CodebookConfig,
    /// How the first stage is trained.
    pub stage_1: Stage1Config,
    /// The second stage's network, in the keys of diffusers' `UNet2DModel`.
    pub unet: UNet2dConfig,
    /// The diffusion schedule.
    pub schedule: ScheduleConfig,
    /// How the second stage is trained.
    pub stage_2: Stage2Config,
    /// How pictures are drawn, while training and by the finished model.
    #[serde(default)]
    pub sampling: SamplingConfig,
}

/// Training the VQ-VAE: its objective and its steps.
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

/// Training the U-Net: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage2Config {
    /// What the network's output means.
    #[serde(default = "default_prediction")]
    pub prediction: Prediction,
    /// Distance between the network's output and its target.
    #[serde(default)]
    pub loss: Distance,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
}

/// How far two tensors are apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// Mean of the squared differences.
    #[default]
    Mse,
    /// Mean of the absolute differences.
    L1,
}

/// The optimizer (AdamW), its learning rate over time, and what is kept along the way.
///
/// A *step* is one update of the weights. It sees `batch_size` x devices x `accumulate` images.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates of the weights in the whole training.
    pub steps: usize,
    /// Images per device in one forward and backward pass.
    pub batch_size: usize,
    /// Passes whose gradients are summed up to one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// Where the cosine ends; equal to `learning_rate` for a constant rate.
    #[serde(default)]
    pub final_learning_rate: f64,
    /// Steps over which the rate rises linearly from zero.
    #[serde(default)]
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay rates of the first and second moment.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Largest Euclidean norm of all gradients together; larger ones are scaled down. Zero: no limit.
    #[serde(default = "default_clip_norm")]
    pub clip_norm: f64,
    /// Average of the weights, used for validation, pictures and the finished model. Absent: none.
    #[serde(default)]
    pub ema: Option<EmaConfig>,
    /// Steps from one checkpoint, validation and row of `metrics.csv` to the next.
    pub checkpoint_every: usize,
    /// How many of the newest checkpoints stay on disk, beside the best one.
    #[serde(default = "default_keep")]
    pub keep_checkpoints: usize,
    /// Checkpoints from one picture to the next. Zero: none.
    #[serde(default = "one")]
    pub pictures_every: usize,
    /// Images that validation looks at, the first ones of the validation split. Zero: all.
    #[serde(default)]
    pub validation_images: usize,
}

/// How pictures are drawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Denoising steps of the pictures drawn while training.
    pub steps: usize,
    /// Images in such a picture.
    pub count: usize,
    /// DDIM's stochasticity: 0 is DDIM, 1 is DDPM.
    pub eta: f64,
    /// Which of the schedule's timesteps are visited.
    pub spacing: Spacing,
    /// Largest magnitude of the predicted clean latent; absent: no limit.
    pub clip: Option<f64>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            steps: 50,
            count: 64,
            eta: 0.0,
            spacing: Spacing::Trailing,
            clip: None,
        }
    }
}

fn one() -> usize {
    1
}
fn default_keep() -> usize {
    2
}
fn default_commitment() -> f64 {
    0.25
}
fn default_prediction() -> Prediction {
    Prediction::Noise
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_clip_norm() -> f64 {
    1.0
}

/// Why an experiment's description was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the config {path}: {source}")]
    Read {
        /// The config's path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML, or not this TOML.
    #[error("{origin}: {message}")]
    Parse {
        /// The file, or the override, that is wrong.
        origin: String,
        /// What is wrong, with the key.
        message: String,
    },
    /// A key's value cannot work.
    #[error("`{key} = {value}` in the config cannot work: {valid}")]
    Value {
        /// The key, with its table.
        key: &'static str,
        /// The refused value.
        value: String,
        /// What would be valid.
        valid: String,
    },
}

impl Experiment {
    /// Reads the TOML file at `path`, applies `overrides` (each `table.key=value`, the value in TOML's notation
    /// or a bare word) and checks that the parts fit each other.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// Like [`Experiment::load`], from text; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let refuse = |message: String| ConfigError::Parse {
            origin: origin.to_owned(),
            message,
        };
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| refuse(one_line(&error)))?;
        for text in overrides {
            override_key(&mut table, text)?;
        }
        // Through text again, so that an error can point at the line when nothing was overridden.
        let experiment: Self = if overrides.is_empty() {
            toml::from_str(text).map_err(|error| refuse(one_line(&error)))?
        } else {
            table
                .try_into()
                .map_err(|error: toml::de::Error| refuse(one_line(&error)))?
        };
        experiment.validate()?;
        Ok(experiment)
    }

    /// Side of the latents and their channels: `[channels, height, width]`.
    pub fn latent_shape(&self) -> [usize; 3] {
        let side = self.data.size / self.vqvae.downscale_factor();
        [self.vqvae.latent_dim(), side, side]
    }

    /// The schedule with its table of rates.
    pub fn build_schedule(&self) -> Result<Schedule, ConfigError> {
        let refuse = |error: kiln_diffusion::DiffusionError| ConfigError::Parse {
            origin: "[schedule] of the config".into(),
            message: error.to_string(),
        };
        let schedule = Schedule::new(self.schedule.clone()).map_err(refuse)?;
        self.stage_2
            .prediction
            .validate(&schedule)
            .map_err(refuse)?;
        Ok(schedule)
    }

    /// Checks that a VQ-VAE trained elsewhere gives the latents that this experiment's U-Net takes.
    pub fn check_first_stage(&self, vqvae: &VqVaeConfig) -> Result<(), ConfigError> {
        let own = &self.vqvae;
        let facts = [
            ("vqvae.in_channels", vqvae.in_channels, own.in_channels),
            ("vqvae.vq_embed_dim", vqvae.latent_dim(), own.latent_dim()),
            (
                "vqvae.block_out_channels",
                vqvae.downscale_factor(),
                own.downscale_factor(),
            ),
        ];
        for (key, found, expected) in facts {
            require(found == expected, key, expected, || {
                format!(
                    "the VQ-VAE given by --vqvae has {found} there (channels, latent dimension or downscaling)"
                )
            })?;
        }
        Ok(())
    }

    /// The experiment as TOML, as `config.toml` of a run folder keeps it.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(self).map_err(|error| ConfigError::Parse {
            origin: "config.toml".into(),
            message: error.to_string(),
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let network = |table: &'static str| {
            move |error: kiln_models::ConfigError| ConfigError::Parse {
                origin: format!("[{table}] of the config"),
                message: error.to_string(),
            }
        };
        self.data.validate().map_err(|error| ConfigError::Parse {
            origin: "[data] of the config".into(),
            message: error.to_string(),
        })?;
        self.vqvae.validate().map_err(network("vqvae"))?;
        self.unet.validate().map_err(network("unet"))?;
        let schedule = self.build_schedule()?;
        self.stage_1.training.validate([
            "stage_1.training.steps",
            "stage_1.training.batch_size",
            "stage_1.training.learning_rate",
            "stage_1.training.checkpoint_every",
        ])?;
        self.stage_2.training.validate([
            "stage_2.training.steps",
            "stage_2.training.batch_size",
            "stage_2.training.learning_rate",
            "stage_2.training.checkpoint_every",
        ])?;

        let channels = self.data.channels;
        for (key, value) in [
            ("vqvae.in_channels", self.vqvae.in_channels),
            ("vqvae.out_channels", self.vqvae.out_channels),
        ] {
            require(value == channels, key, value, || {
                format!(
                    "the images have {channels} channel(s) (data.channels), so it must be {channels}"
                )
            })?;
        }
        let factor = self.vqvae.downscale_factor();
        require(
            self.data.size.is_multiple_of(factor),
            "data.size",
            self.data.size,
            || {
                format!(
                    "the VQ-VAE halves images {} times, so it must be a multiple of {factor}",
                    factor.ilog2()
                )
            },
        )?;
        let [latent_channels, side, _] = self.latent_shape();
        for (key, value) in [
            ("unet.in_channels", self.unet.in_channels),
            ("unet.out_channels", self.unet.out_channels),
        ] {
            require(value == latent_channels, key, value, || {
                format!(
                    "the VQ-VAE's latents have {latent_channels} channels, so it must be {latent_channels}"
                )
            })?;
        }
        if let Some(sample_size) = self.unet.sample_size.map(|size| size.height_and_width()) {
            require(
                sample_size == [side, side],
                "unet.sample_size",
                sample_size[0],
                || format!("the VQ-VAE's latents are {side}x{side}, so it must be {side}"),
            )?;
        }
        let levels = self.unet.block_out_channels.len();
        let halvings = 1 << levels.saturating_sub(1);
        require(
            side.is_multiple_of(halvings),
            "unet.block_out_channels",
            levels,
            || {
                format!(
                    "its {levels} levels divide by {halvings}, which latents of {side}x{side} cannot be: use fewer levels or larger latents"
                )
            },
        )?;
        let timesteps = schedule.num_train_timesteps();
        require(
            (1..=timesteps).contains(&self.sampling.steps),
            "sampling.steps",
            self.sampling.steps,
            || format!("it must lie between 1 and schedule.num_train_timesteps = {timesteps}"),
        )?;
        require(
            (0.0..=1.0).contains(&self.sampling.eta),
            "sampling.eta",
            self.sampling.eta,
            || "it must lie between 0 (DDIM) and 1 (DDPM)".into(),
        )?;
        require(
            self.stage_1.commitment >= 0.0,
            "stage_1.commitment",
            self.stage_1.commitment,
            || "a weight cannot be negative".into(),
        )
    }
}

impl TrainingConfig {
    /// How many of `available` validation images are looked at.
    pub(crate) fn validated(&self, available: usize) -> usize {
        match self.validation_images {
            0 => available,
            limit => limit.min(available),
        }
    }

    fn validate(&self, keys: [&'static str; 4]) -> Result<(), ConfigError> {
        let [steps, batch_size, learning_rate, checkpoint_every] = keys;
        require(self.steps > 0, steps, self.steps, || {
            "at least one step is needed".into()
        })?;
        require(
            self.batch_size > 0 && self.accumulate > 0,
            batch_size,
            self.batch_size,
            || "batch_size and accumulate must be at least 1".into(),
        )?;
        require(
            self.learning_rate > 0.0
                && self.learning_rate <= 1.0
                && self.final_learning_rate <= self.learning_rate,
            learning_rate,
            self.learning_rate,
            || {
                "it must lie above 0 and at most at 1, and final_learning_rate must not exceed it"
                    .into()
            },
        )?;
        require(
            self.checkpoint_every > 0,
            checkpoint_every,
            self.checkpoint_every,
            || "at least one step lies between two checkpoints".into(),
        )
    }
}

fn require(
    holds: bool,
    key: &'static str,
    value: impl ToString,
    valid: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        valid: valid(),
    })
}

/// Applies one `table.key=value` to the parsed file.
fn override_key(table: &mut toml::Table, text: &str) -> Result<(), ConfigError> {
    let refuse = |message: &str| ConfigError::Parse {
        origin: format!("--set {text}"),
        message: message.into(),
    };
    let (path, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("write it as table.key=value"))?;
    // A value that is no TOML is taken as a bare word: `--set stage_2.loss=l1`.
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys
        .pop()
        .filter(|key| !key.is_empty())
        .ok_or_else(|| refuse("the key is empty"))?;
    let mut table = table;
    for key in keys {
        table = table
            .entry(key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| refuse(&format!("`{key}` is not a table")))?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// TOML's errors draw a picture over several lines; a sentence is enough here.
fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}
