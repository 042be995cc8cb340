//! Diffusion on tensors, without a network: schedules, predictions, losses, samplers.
//!
//! Diffusion mixes an image z0 with Gaussian noise and teaches a network to separate the mixture again:
//!
//! ```text
//! zt = a z0 + b noise,    a² + b² = 1
//! ```
//!
//! where a is the *signal rate* and b the *noise rate*. The parts of this crate:
//!
//! - [`Schedule`] is the curve from a timestep to (a, b): almost all image at 0, almost all noise at T - 1.
//!   [`ScheduleConfig`] describes it in an experiment, [`ScheduleKind`] lists the curves with their formulas, and
//!   [`Schedule::warning`] reports a schedule that would train well but sample badly.
//! - [`Prediction`] is what the network answers: the noise, the image, the velocity v = a noise -
//!   b z0, or the flow noise - z0. Any of them gives the others.
//! - [`NoiseLevels`] is the distribution of the noise levels that it trains on, and [`Loss`] is what it minimises: a
//!   [`Distance`] on any component, with a [`LossWeight`] for each noise level.
//! - [`Denoiser`] hides that choice: given zt and a [`Level`], it answers (z0, noise). [`NetworkDenoiser`] makes one
//!   from a network, and can [clip](Clip) its images; a closure is one too.
//! - [`levels()`] places a trajectory of S steps on the schedule, with one of the [`Spacing`]s.
//! - [`sampler`] has the functions that lead a denoiser down such a trajectory, from [DDPM](sampler::ddpm) and
//!   [DDIM](sampler::ddim()) to [DPM-Solver++](sampler::dpm_solver()); [inversion](sampler::invert) walks up again, and
//!   [inpainting](sampler::inpaint()) down with part of the image known.
//! - [`Guidance`] exaggerates what a network's condition changes; [`slerp()`] goes from one noise to another.
//! - [`noise`] draws random numbers by address, so that image 7 of seed 42 is the same in any batch
//!   and on any device.
//! - [`SchedulerConfig`] reads and writes all these settings as diffusers' `scheduler_config.json`.
//!
//! # Sampling
//!
//! For standard normal data the best estimate of z0 is a zt. A network that computes this samples such data:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use kiln_diffusion::noise::ImageNoise;
//! use kiln_diffusion::sampler::dpm_solver;
//! use kiln_diffusion::{
//!     Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig, levels,
//! };
//!
//! let schedule = Schedule::new(ScheduleConfig::default())?;
//! let denoiser = NetworkDenoiser {
//!     network: |zt: Tensor<4>, level: Level| zt * level.rates.signal,
//!     prediction: Prediction::Signal,
//!     clip: None,
//! };
//! // Images 0, 1 and 2 of seed 42: one channel, 8 x 8.
//! let (images, shape) = (vec![0, 1, 2], [1, 8, 8]);
//! let noise = ImageNoise { seed: 42, images, shape, device: Device::flex() };
//! let levels = levels(&schedule, 50, LevelOptions::default())?;
//! let images = dpm_solver(
//!     &denoiser,
//!     noise.draw(0),
//!     &levels,
//!     0.0, // eta: no fresh noise on the way
//!     &mut |step| noise.draw(step),
//!     &mut |progress| println!("step {} of {}", progress.step, progress.steps),
//! )?;
//! assert_eq!(images.dims(), [3, 1, 8, 8]);
//! # Ok::<(), kiln_diffusion::DiffusionError>(())
//! ```
//!
//! # Training
//!
//! Each image of a batch has its own timestep, so the rates are tensors `[batch, 1, 1, 1]`; the formulas are the same:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use kiln_diffusion::{
//!     Distance, Loss, LossWeight, NoiseLevels, Prediction, Rates, Schedule, ScheduleConfig,
//! };
//! # fn unet(zt: Tensor<4>, timesteps: Tensor<1>) -> Tensor<4> { zt }
//!
//! let (device, schedule) = (Device::flex(), Schedule::new(ScheduleConfig::default())?);
//! let loss = Loss {
//!     prediction: Prediction::Velocity,
//!     on: Prediction::Noise,
//!     distance: Distance::Mse,
//!     weight: LossWeight::MinSnr { gamma: 5.0 },
//! };
//! let (seed, step) = (42, 1000);
//! # let z0 = Tensor::<4>::zeros([2, 1, 8, 8], &device);
//! # let noise = Tensor::<4>::ones([2, 1, 8, 8], &device);
//!
//! let timesteps = [0, 1].map(|image| NoiseLevels::Uniform.timestep(&schedule, seed, image, step));
//! let levels = timesteps.map(|timestep| schedule.rates(timestep));
//! let rates = Rates::batch(&levels, &device);
//! let zt = rates.add_noise(z0.clone(), noise.clone());
//! let target = loss.prediction.target(z0, noise, &rates);
//! let output = unet(zt, Tensor::from_floats(timesteps, &device));
//! let loss = loss.between(output, target, &levels);
//! # let _ = loss;
//! # Ok::<(), kiln_diffusion::DiffusionError>(())
//! ```

mod clip;
mod denoised;
mod denoiser;
mod diffusers;
mod error;
mod guidance;
mod level;
mod linspace;
mod loss;
mod loss_weight;
mod no_settings;
pub mod noise;
mod noise_levels;
mod prediction;
pub mod sampler;
pub mod schedule;
mod slerp;
mod spacing;

pub use clip::Clip;
pub use denoised::Denoised;
pub use denoiser::{Denoiser, NetworkDenoiser};
pub use diffusers::SchedulerConfig;
pub use error::DiffusionError;
pub use guidance::Guidance;
pub use level::{Level, Rate, Rates, per_image};
pub use loss::{Distance, Loss, LossAtLevels};
pub use loss_weight::LossWeight;
pub use noise_levels::NoiseLevels;
pub use prediction::Prediction;
pub use schedule::{Schedule, ScheduleConfig, ScheduleKind};
pub use slerp::slerp;
pub use spacing::{
    FinalLevel, LevelOptions, Spacing, StepGrid, last_part, levels, levels_at, trailing_levels,
    warning,
};
