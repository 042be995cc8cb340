//! One TOML file per experiment: the data, both networks, both stages and how to sample.
//!
//! Without the tables of the first stage (`[vqvae]`, `[codebook]`, `[stage_1]`) it is a pixel-space experiment: the
//! U-Net learns to denoise the images themselves.
//!
//! The file is strict: an unknown key, an impossible shape or a model that does not fit its data is refused
//! before any work starts, with the key, the value and what would be valid.

mod classifier;
mod evaluation;
mod interval;
mod refusal;
mod sampler;
mod validation;

use std::path::{Path, PathBuf};

use kiln_data::DataConfig;
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{
    Clip, Distance, LevelOptions, Loss, LossWeight, NoiseLevels, Prediction, Schedule,
    ScheduleConfig, SchedulerConfig, Spacing,
};
use kiln_kernels::Precision;
use kiln_models::bottleneck::vq::CodebookConfig;
use kiln_models::ema::EmaConfig;
use kiln_models::{SampleSize, UNet2dConfig, VqVaeConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use classifier::{Augmentation, ClassifierExperiment};
pub use evaluation::{Best, EvaluationConfig};
pub use interval::Interval;
use refusal::{Described, Place, explain};
use validation::within;

use crate::run_folder::RunFolder;

/// A whole experiment, as its TOML file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Seeds the initial weights, the order of the data and all noise.
    #[serde(default)]
    pub seed: u64,
    /// The keys, as `table.key=value`, that were set in place of its file's. A run folder's `config.toml` has them, so that a
    /// run that goes on need not be told again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// What to train on.
    pub data: DataConfig,
    /// The first stage's network, in the keys of diffusers' `VQModel`. Absent in pixel space.
    pub vqvae: Option<VqVaeConfig>,
    /// How the codebook is trained; absent: with its defaults. Only where there is a first stage.
    pub codebook: Option<CodebookConfig>,
    /// How the first stage is trained. There if and only if `vqvae` is.
    pub stage_1: Option<Stage1Config>,
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

/// The first stage's tables of an experiment that has one.
#[derive(Debug, Clone)]
pub struct FirstStageConfig<'a> {
    /// The network.
    pub vqvae: &'a VqVaeConfig,
    /// How its codebook is trained.
    pub codebook: CodebookConfig,
    /// How it is trained.
    pub stage_1: &'a Stage1Config,
}

impl FirstStageConfig<'_> {
    /// Refuses a codebook of more codes than `images` of this side have latent vectors: some could never be used.
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
    /// Distance between what the network's output stands for and the truth.
    #[serde(default)]
    pub loss: Distance,
    /// The component whose distance is taken; absent: what is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<Prediction>,
    /// How much each noise level counts in the loss.
    #[serde(default)]
    pub loss_weight: LossWeight,
    /// How noisy the images are that the network is trained on.
    #[serde(default)]
    pub noise_levels: NoiseLevels,
    /// Share of the images that are shown without their class, in [0, 1): what classifier-free guidance needs to have
    /// been trained (Ho and Salimans 2022). Only for a U-Net with classes.
    #[serde(default)]
    pub label_dropout: f64,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
    /// Distances between drawn and real images, measured now and then. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
}

impl Stage2Config {
    /// What the network minimises.
    pub fn objective(&self) -> Loss {
        Loss {
            prediction: self.prediction,
            on: self.loss_on.unwrap_or(self.prediction),
            distance: self.loss,
            weight: self.loss_weight,
        }
    }
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
    /// Batches whose gradients are summed up to one step. Where there are several, a step sees each training image at most 100
    /// times, which is checked once the data are known.
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
    /// Which numbers the convolutions multiply: `f32` or `bf16`. Weights, sums and losses are `f32` in either case.
    #[serde(default)]
    pub precision: Precision,
    /// Average of the weights, used for validation, pictures and the finished model. Absent: none.
    #[serde(default)]
    pub ema: Option<EmaConfig>,
    /// Steps from one checkpoint, validation and row of `metrics.csv` to the next, or passes: `"1 pass"`.
    pub checkpoint_every: Interval,
    /// How many of the newest checkpoints stay on disk, beside the best one.
    #[serde(default = "default_keep")]
    pub keep_checkpoints: usize,
    /// Checkpoints from one picture to the next, or passes, to the nearest checkpoint. Zero: none.
    #[serde(default = "every_one")]
    pub pictures_every: Interval,
    /// Images that validation looks at, spread evenly over the validation split. Zero: all.
    #[serde(default)]
    pub validation_images: usize,
}

/// How pictures are drawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Denoising steps of the pictures drawn while training.
    pub steps: usize,
    /// Images in such a picture. With classes each has a row, of as many whole columns as this allows, at least one.
    pub count: usize,
    /// How to walk from noise to image: a name, or a table with the sampler's settings.
    #[serde(deserialize_with = "sampler::by_name_or_table")]
    pub sampler: Sampler,
    /// Which of the schedule's timesteps are visited.
    pub spacing: Spacing,
    /// How predicted clean latents or, in pixel space, images are kept in their range: a number (1 for pixels), or
    /// dynamic thresholding; absent: not at all.
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

fn one() -> usize {
    1
}
fn every_one() -> Interval {
    Interval::Every(1)
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
    /// A first stage of which a part is missing.
    #[error(
        "the config has [{there}] but no [{missing}]: a first stage needs [vqvae] and [stage_1], and a pixel-space experiment has none of [vqvae], [codebook] and [stage_1]"
    )]
    HalfAFirstStage {
        /// A table that is there.
        there: &'static str,
        /// The one that it needs.
        missing: &'static str,
    },
    /// A key asks for more memory than there is.
    #[error(
        "`{key} = {value}` in the config needs about {needed:.1} GB of memory, and {free:.1} GB are free: use a smaller one{}",
        if key.ends_with("batch_size") { " (accumulate makes up for it)" } else { "" }
    )]
    Memory {
        /// The key, with its table.
        key: String,
        /// The refused value.
        value: String,
        /// What it needs, in units of 10^9 bytes.
        needed: f64,
        /// What there is.
        free: f64,
    },
    /// A key's value cannot work.
    #[error("`{key} = {value}` in the config cannot work: {valid}")]
    Value {
        /// The key, with its table.
        key: String,
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
        Self::parse(&read(path)?, &path.display().to_string(), overrides)
    }

    /// Like [`Experiment::load`], from text; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut experiment: Self = parse_table(text, origin, overrides, Described::Models)?;
        experiment.validate()?;
        experiment.complete();
        remember(&mut experiment.overrides, overrides);
        Ok(experiment)
    }

    /// Fills in what follows from other keys: the sizes that the networks' own configs tell those who use them, and the
    /// codebook's defaults.
    fn complete(&mut self) {
        if let Some(vqvae) = &mut self.vqvae {
            vqvae.sample_size = self.data.size;
            self.codebook.get_or_insert_default();
        }
        let [_, side, _] = self.sample_shape();
        self.unet
            .sample_size
            .get_or_insert(SampleSize::Square(side));
    }

    /// The first stage, unless the experiment is one in pixel space.
    pub fn first_stage(&self) -> Option<FirstStageConfig<'_>> {
        Some(FirstStageConfig {
            vqvae: self.vqvae.as_ref()?,
            codebook: self.codebook.clone().unwrap_or_default(),
            stage_1: self.stage_1.as_ref()?,
        })
    }

    /// Shape of what stage 2 denoises, `[channels, height, width]`: a latent or, in pixel space, an image.
    pub fn sample_shape(&self) -> [usize; 3] {
        let size = self.data.size;
        match &self.vqvae {
            Some(vqvae) => {
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

    /// How the finished model is meant to be sampled: what its `scheduler/` will say.
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

    /// This experiment as others can have it: without the places of files on this machine, and without the list of what was
    /// set by hand, which is in its keys. To be told anew are where the data is, and whose feature weights measure.
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

impl TrainingConfig {
    /// Which of `available` validation images are looked at. Not the first ones: many data sets are sorted by class.
    pub(crate) fn validated(&self, available: usize) -> Vec<u32> {
        let count = match self.validation_images {
            0 => available,
            limit => limit.min(available),
        };
        (0..count)
            .map(|place| (place * available / count) as u32)
            .collect()
    }
}

/// What was set in place of the keys of its file when the run in the folder `run` began, or last went on: as `--set` has
/// it. None where there is no run.
///
/// # Errors
/// [`ConfigError`] when the run's `config.toml` cannot be read.
pub fn overrides_of_run(run: &Path) -> Result<Vec<String>, ConfigError> {
    #[derive(Deserialize)]
    struct Recorded {
        #[serde(default)]
        overrides: Vec<String>,
    }
    let config = RunFolder::new(run).config();
    if !config.exists() {
        return Ok(Vec::new());
    }
    let text = read(&config)?;
    let recorded: Recorded = toml::from_str(&text)
        .map_err(|error| no_toml(&error, &text, &config.display().to_string()))?;
    Ok(recorded.overrides)
}

/// Whether a path of data means a data set on the Hub.
pub(crate) fn is_on_the_hub(path: &Path) -> bool {
    path.to_string_lossy().starts_with("hf:")
}

/// Adds `new` overrides to those that are `known`, of which each key's last one counts.
fn remember(known: &mut Vec<String>, new: &[String]) {
    for new in new {
        let key = |text: &str| text.split('=').next().map(|key| key.trim().to_owned());
        known.retain(|known| key(known) != key(new));
        known.push(new.clone());
    }
}

/// The text of the file at `path`.
fn read(path: &Path) -> Result<String, ConfigError> {
    kiln_data::read_text(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// An experiment as TOML.
fn written(experiment: &impl Serialize) -> Result<String, ConfigError> {
    toml::to_string_pretty(experiment).map_err(|error| ConfigError::Parse {
        origin: "config.toml".into(),
        message: error.to_string(),
    })
}

/// The TOML in `text` with `overrides` applied; `origin` names it in errors.
fn parse_table<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    overrides: &[String],
    described: Described,
) -> Result<T, ConfigError> {
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| no_toml(&error, text, origin))?;
    for text in overrides {
        override_key(&mut table, text)?;
    }
    let value = toml::Value::Table(table.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (place, message) = explain(&error, &table, described);
        // The last word on a key is the command line's.
        let set = overrides
            .iter()
            .rev()
            .find(|text| place.is_along(&Place::of_override(text)));
        let origin = match (set, place.line_in(text)) {
            (Some(_), _) => "--set".to_owned(),
            (None, Some(line)) => format!("{origin}, line {line}"),
            (None, None) => origin.to_owned(),
        };
        ConfigError::Parse { origin, message }
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
    // A value that is no TOML is taken as a bare word: `--set stage_2.loss=mae`.
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
            .ok_or_else(|| {
                refuse(&format!(
                    "`{key}` is not a table, so it has no keys of its own"
                ))
            })?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// Text that is not TOML. TOML's errors draw a picture over several lines; the line's number and a sentence are enough.
fn no_toml(error: &toml::de::Error, text: &str, origin: &str) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!(", line {}", before.matches('\n').count() + 1));
    ConfigError::Parse {
        origin: format!("{origin}{}", line.unwrap_or_default()),
        message: error
            .message()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_looks_at_images_from_all_over_the_split() {
        let validated = |validation_images: usize, available| {
            let text = format!(
                "steps = 1\nbatch_size = 1\nlearning_rate = 0.1\ncheckpoint_every = 1\nvalidation_images = {validation_images}"
            );
            toml::from_str::<TrainingConfig>(&text)
                .unwrap()
                .validated(available)
        };
        assert_eq!(validated(4, 10), [0, 2, 5, 7]);
        assert_eq!(validated(0, 3), [0, 1, 2]);
        assert_eq!(validated(9, 3), [0, 1, 2]);
        assert_eq!(validated(2, 0), [0; 0]);
    }
}
