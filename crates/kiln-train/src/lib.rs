//! Trains the two stages of latent diffusion on Burn's Learner, and diffusion in pixel space.
//!
//! Stage 1, [`train_vqvae`], teaches an autoencoder to compress images. Stage 2, [`train_latent_diffusion`], encodes the data
//! set once and teaches a U-Net to denoise the latents. Without a first stage, [`train_diffusion`] teaches it to
//! denoise the images themselves. One [`Experiment`] describes them all, and they write their results to one run folder
//! (see [`RunOptions::out`]).
//!
//! | folder | contents |
//! | --- | --- |
//! | `first_stage/`, `denoising/`, `classifier/` | the stages: each a recipe and the source of its batches |
//! | `sweep/` | one experiment with many settings |
//! | `script/` | one script for every stage: its options, its start or its resume, its report |
//! | `learner/` | runs any recipe on Burn's Learner |
//! | `run_folder/` | the folder for a run's results: who may write there, what its files hold, and reading it |
//! | `event_file/` | TensorBoard's format |
//! | `ranks/` | several processes that train together |
//! | `experiment/` | the description of an experiment: one TOML file |
//!
//! Imports point down this list and never up, and stages never import each other.
//!
//! [`preview_vqvae`], [`preview_diffusion`] and [`preview_classifier`] say what a training will be like before it starts:
//! its weights, memory, passes and, from a few of its own steps, its time.
//!
//! For benchmarks, [`vqvae_steps`] and [`diffusion_steps`] run the same training steps one by one.
//!
//! A *round* here is the Learner's epoch: the steps from one checkpoint to the next.

mod classifier;
mod counted;
mod denoising;
mod error;
mod event_file;
mod experiment;
mod first_stage;
mod learner;
mod ranks;
mod run_folder;
mod script;
mod stages;
mod steps;
mod sweep;

pub use classifier::record::ClassifierRecord;
#[doc(hidden)]
pub use counted::counted;
pub use denoising::evaluation::{seen_in, seen_in_dataset};
pub use error::TrainError;
pub use experiment::{
    AdversarialConfig, Augmentation, Balanced, Best, ClassifierExperiment, DifferentiableChange,
    DistillationConfig, EquivarianceConfig, EvaluationConfig, Experiment, ExperimentError, Extent,
    FirstStageConfig, Interval, LatentNumbers, PerceptualConfig, PosteriorLatents, SamplingConfig,
    Stage1Config, Stage2Config, TermWeight, TrainingConfig,
};
#[doc(hidden)]
pub use experiment::{describes_classifier, key_of_override, sampler_of_students};
pub use first_stage::diagnosis::{DiscriminatorFinding, discriminator_findings};
#[doc(hidden)]
pub use learner::dashboard;
pub use learner::learning_rate::WarmupCosine;
pub use learner::session::StopSignal;
pub use learner::strategy::Strategy;
pub use ranks::{Ranks, RanksError};
#[doc(hidden)]
pub use run_folder::destination::check_destination;
pub use run_folder::drawable::load_model;
pub use run_folder::kind::FolderKind;
pub use run_folder::label::RunLabel;
pub use run_folder::overview::{RunOverview, RunState};
pub use run_folder::record::{RunRecord, StageRecord, overrides_of_run};
pub use run_folder::teacher::record_of_model;
#[doc(hidden)]
pub use run_folder::{write_atomically, write_new};
pub use script::options::RunOptions;
pub use script::outlook::{NetworkWeights, Outlook, Preview};
pub use script::training_report::TrainingReport;
pub use script::trial::Pace;
pub use stages::{
    memory_of_training, preview_classifier, preview_diffusion, preview_vqvae, train_classifier,
    train_diffusion, train_latent_diffusion, train_vqvae,
};
pub use steps::{DiffusionInput, diffusion_steps, vqvae_steps};
pub use sweep::plan::{GivenFirstStage, SweepPlan, SweepRequest};
pub use sweep::results::{PointResults, RunResults, SweepResults};
pub use sweep::{SweepStep, plan_in, sweep};
