//! Diffusion on tensors, without a network: schedules, predictions, samplers.

mod denoiser;
mod error;
mod level;
pub mod noise;
mod prediction;
pub mod sampler;
mod schedule;
mod schedule_config;
mod scheduler_config;
mod spacing;

pub use denoiser::{Denoised, Denoiser, NetworkDenoiser};
pub use error::DiffusionError;
pub use level::{Level, Rate, Rates};
pub use prediction::Prediction;
pub use schedule::Schedule;
pub use schedule_config::{ScheduleConfig, ScheduleKind};
pub use scheduler_config::SchedulerConfig;
pub use spacing::{FinalLevel, LevelOptions, Spacing, levels};
