//! Diffusion on tensors, without a network: schedules, predictions, samplers.

mod denoiser;
mod error;
mod level;
pub mod noise;
mod prediction;
mod schedule;
mod schedule_config;

pub use denoiser::{Denoised, Denoiser, NetworkDenoiser};
pub use error::DiffusionError;
pub use level::{Level, Rate, Rates};
pub use prediction::Prediction;
pub use schedule::Schedule;
pub use schedule_config::{ScheduleConfig, ScheduleKind};
