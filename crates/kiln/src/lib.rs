//! Two-stage latent diffusion: the front door.
//!
//! A [`Pipeline`] draws images with a trained model; an [`Autoencoder`] is its first stage alone, which compresses images
//! and gives them back. Training is in [`kiln_train`], how fast all of it is in [`mod@bench`], how good its
//! images are in [`evaluation`], what is wrong with
//! a model in [`doctor`], and everything below in the crates that these types come from.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::Device;
//! use kiln::{Pipeline, SampleOptions};
//! use kiln::pictures::{columns_for, grid, save_png};
//!
//! let pipeline = Pipeline::load(Path::new("runs/mnist/model"), &Device::flex())?;
//! let options = SampleOptions { steps: 50, count: 16, ..pipeline.default_options() };
//! let images = pipeline.sample(&options, |_| Ok(()))?;
//! save_png(&grid(&images, columns_for(images.len())), Path::new("digits.png"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![recursion_limit = "256"]

mod autoencoder;
pub mod bench;
pub mod doctor;
mod error;
pub mod evaluation;
mod memory;
mod pipeline;
mod pretrained;

pub use autoencoder::{Autoencoder, Reconstruction};
pub use error::Error;
pub use kiln_train::pictures;
pub use pictures::Images;
pub use pipeline::{Classes, Interpolation, Moment, Pipeline, SampleOptions, Start};
