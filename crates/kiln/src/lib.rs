//! Two-stage latent diffusion: load, draw, edit and train.
//!
//! A [`Pipeline`] is a trained model, which draws images and edits them. An [`Autoencoder`] is its first stage alone,
//! which compresses images and reconstructs them. An [`Experiment`] is a training: [`train_vqvae`] and then
//! [`train_latent_diffusion`], or [`train_diffusion`] in pixel space. Tensors and devices come from [`burn`].
//!
//! # Train on your own images
//!
//! One TOML file describes a whole training. Copy one from the repository's `configs/`, set `dataset = "folder"` and
//! `path`, which can be a folder, a zip or a tar of images:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use kiln::burn::tensor::Device;
//! use kiln::pictures::{columns_for, grid, save_png};
//! use kiln::{Experiment, NoProgress, Pipeline, RunOptions, train_latent_diffusion, train_vqvae};
//!
//! let experiment = Experiment::load(Path::new("photos.toml"), &[])?;
//! let run = RunOptions::new(Path::new("runs/photos"));
//! train_vqvae(&experiment, &run, &NoProgress)?;
//! train_latent_diffusion(&experiment, &run, &NoProgress)?;
//!
//! let pipeline = Pipeline::load(Path::new("runs/photos/model"), &Device::flex())?;
//! let images = pipeline.sample(&pipeline.default_options())?;
//! save_png(&grid(&images, columns_for(images.len())), Path::new("photos.png"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Images that are not in files go into [`RunOptions::data`], as [`Datasets`] of [`ImageDataset::from_pixels`].
//!
//! # Draw with your own sampler
//!
//! A sampler calls the [`Denoiser`], which separates image and noise, at each [`Level`] on the way to no noise. This
//! one is DDIM (Song et al. 2021, eq. 12):
//!
//! ```no_run
//! use std::path::Path;
//!
//! use kiln::burn::tensor::Device;
//! use kiln::pictures::{columns_for, grid, save_png};
//! use kiln::{Denoised, Pipeline, SampleOptions};
//!
//! let pipeline = Pipeline::load(Path::new("runs/photos/model"), &Device::flex())?;
//! let options = SampleOptions { steps: 50, count: 16, ..pipeline.default_options() };
//! let images = pipeline.sample_with(&options, |denoiser, noise, levels| {
//!     let mut z = noise;
//!     for [level, next] in levels.array_windows() {
//!         let Denoised { z0, noise } = denoiser.denoise(z, *level);
//!         z = next.rates.add_noise(z0, noise);
//!     }
//!     z
//! })?;
//! save_png(&grid(&images, columns_for(images.len())), Path::new("own.png"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For a training that is not finished, [`load_model`] reads a checkpoint, and [`Pipeline::from_model`] draws with it.
//!
//! The code behind this page is in the crates `kiln_pipeline` (a trained model in use), `kiln_models` (the networks),
//! `kiln_data` and `kiln_train`, and in two that are modules here: [`diffusion`] (schedules, losses, samplers) and [`eval`]
//! (measures).

#![recursion_limit = "256"]

pub use burn;
pub use kiln_checkpoint::{DiffusionModel, ModelSource};
pub use kiln_data::{Datasets, ImageDataset, ImageShape, NoProgress, Progress};
pub use kiln_diffusion as diffusion;
pub use kiln_diffusion::sampler::{InpaintOptions, Sampler};
pub use kiln_diffusion::{
    Clip, Denoised, Denoiser, Guidance, Level, LevelOptions, Rates, Schedule, ScheduleConfig,
    ScheduleKind, Spacing,
};
pub use kiln_eval as eval;
pub use kiln_kernels::Precision;
pub use kiln_pipeline::{
    Autoencoder, Classes, DeviceError, Devices, Error, Interpolation, Moment, Observed, Observer,
    Pipeline, Reconstruction, SampleOptions, Start, Stops, Wanted,
};
pub use kiln_pipeline::{pictures, plots};
pub use kiln_train::{
    Experiment, RunOptions, StopSignal, TrainError, TrainingReport, load_model, train_diffusion,
    train_latent_diffusion, train_vqvae,
};
