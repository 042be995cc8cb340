//! Trains the two stages of latent diffusion on Burn's Learner, and diffusion in pixel space.
//!
//! Stage 1, [`train_vqvae`], teaches a VQ-VAE to compress images. Stage 2, [`train_latent_diffusion`], encodes the
//! data set once and teaches a U-Net to denoise the latents. Without a first stage [`train_diffusion`] teaches it to
//! denoise the images themselves. All are described by one [`Experiment`] and leave their results in one run folder
//! (see [`RunOptions::out`]).
//!
//! What this crate adds to the Learner, each through an extension point that Burn offers:
//!
//! | file | adds | by way of |
//! | --- | --- | --- |
//! | `plan`, `loader` | an order of images that depends on seed and step alone | `DataLoader` |
//! | `clean`, `noisy_source`, `classes` | noise and labels that do, for images or their latents | `DataLoader` |
//! | `update` | global-norm clipping, EMA, a stop at gradients that are not finite | `TrainStep::optimize` |
//! | `identity`, `start` | a resume that is the same experiment on the same data | |
//! | `checkpoint` | whole, verified checkpoints that resume in mid-round | `Checkpointer`, `CheckpointingStrategy` |
//! | `report`, `log`, `plots/curves` | metrics, `metrics.csv`, `curves.svg` and `.png` | `Metric`, `MetricLogger` |
//! | `renderer` | one line a round when piped | `MetricsRenderer` |
//! | `evaluation` | how far drawn images are from real ones | `InferenceStep` |
//! | `session` | Ctrl-C, failures and the cursor, across Burn's threads | `Interrupter`, `EarlyStoppingStrategy` |
//!
//! For benchmarks, [`vqvae_steps`] and [`diffusion_steps`] take the same training steps one by one.
//!
//! What the Learner calls an epoch is a *round* here: the steps from one checkpoint to the next.

mod checkpoint;
mod claim;
mod classes;
mod classifier_stage;
mod clean;
mod counted;
pub mod dashboard;
mod destination;
pub mod devices;
mod diffusion_stage;
mod distortion;
mod drawable;
mod error;
mod evaluation;
mod experiment;
mod folder_kind;
mod identity;
mod initial_weights;
mod latents;
mod launch;
mod learning_rate;
mod loader;
mod log;
mod made_folder;
mod memory;
mod noisy_source;
mod objective;
pub mod pictures;
mod plan;
pub mod plots;
mod ranks;
mod recipe;
mod record;
mod renderer;
mod report;
mod run_folder;
mod session;
mod stages;
mod start;
mod steps;
mod suggestion;
mod update;
mod vqvae_stage;

pub use counted::counted;
pub use destination::check_destination;
pub use devices::{DeviceError, Devices};
pub use drawable::load_model;
pub use error::TrainError;
pub use evaluation::{seen_in, seen_in_dataset};
pub use experiment::{
    Augmentation, Best, ClassifierExperiment, ConfigError, EvaluationConfig, Experiment,
    FirstStageConfig, Interval, SamplingConfig, Stage1Config, Stage2Config, TrainingConfig,
    overrides_of_run,
};
pub use folder_kind::FolderKind;
pub use launch::Strategy;
pub use learning_rate::WarmupCosine;
pub use ranks::{Ranks, RanksError};
pub use record::{RunRecord, StageRecord};
pub use run_folder::write_atomically;
pub use session::StopSignal;
pub use stages::{
    RunOptions, TrainingReport, train_classifier, train_diffusion, train_latent_diffusion,
    train_vqvae,
};
pub use steps::{DiffusionInput, diffusion_steps, vqvae_steps};
pub use suggestion::suggestion;
