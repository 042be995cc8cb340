//! The networks of latent diffusion, with the same keys and the same numbers as in diffusers.
//!
//! - [`Autoencoder`] compresses images into small latents and decodes them again: encoder, [`bottleneck`], decoder.
//!   With a codebook in the middle it is diffusers' `VQModel`, with a normal distribution diffusers' `AutoencoderKL`.
//! - [`UNet2d`] is diffusers' `UNet2DModel`: it denoises, in latent space or in pixels.
//! - [`VqVaeConfig`], [`AutoencoderKlConfig`] and [`UNet2dConfig`] are their `config.json`, and [`load_weights`] and
//!   [`save_weights`] read and write their safetensors, so that diffusers loads a model trained here, and the other way
//!   round.
//! - [`Discriminator`] tells images from reconstructions while a first stage is trained.
//! - [`ema`] averages weights over the steps of training.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kiln_models::VqVaeConfig;
//!
//! let config = VqVaeConfig::from_json(
//!     r#"{ "_class_name": "VQModel", "block_out_channels": [8], "norm_num_groups": 4 }"#,
//! )?;
//! let device = Device::flex();
//! let model = config.init(&device, 0)?;
//!
//! let images = Tensor::<4>::random([1, 3, 8, 8], Distribution::Uniform(-1.0, 1.0), &device);
//! let latents = model.encode(images);
//! assert_eq!(model.decode(latents).dims(), [1, 3, 8, 8]);
//! # Ok::<(), kiln_models::ConfigError>(())
//! ```

#![recursion_limit = "256"]

mod autoencoder;
mod batch_position;
mod blocks;
pub mod bottleneck;
mod config;
mod discriminator;
pub mod ema;
mod error;
mod feature_maps;
pub mod initialization;
mod keys;
mod memory;
mod parameters;
pub mod power_average;
mod stored;
mod unet;
mod weights;

pub use autoencoder::{
    Autoencoder, AutoencoderConfig, AutoencoderKlConfig, DecoderBlockType, EncoderBlockType,
    NormType, VqVaeConfig,
};
pub use batch_position::BatchPosition;
pub use blocks::{Activation, TimeScaleShift, with_dropout_at};
pub use discriminator::{Discriminator, DiscriminatorConfig, Judgement};
pub use error::{ConfigError, WeightsError};
pub use feature_maps::FeatureMaps;
pub use memory::{free_memory, too_little_memory};
pub use stored::{SafetensorsFile, StoredTensor, TensorInFile};
pub use unet::{
    ClassEmbeddingType, DownBlockType, EmbeddedLevels, MidBlockType, ProjectedTimes, ResampleType,
    SampleSize, TimeEmbeddingType, UNet2d, UNet2dConfig, UpBlockType,
};
pub use weights::{
    WeightsType, load_weights, load_weights_from_bytes, load_weights_from_tensors, save_weights,
};
