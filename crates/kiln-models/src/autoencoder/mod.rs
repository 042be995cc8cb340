//! The first stage of latent diffusion: encoder, bottleneck, decoder.
//!
//! ```text
//! model.rs               all of it
//! config.rs              the options of either kind
//! vq_config.rs           the options of diffusers' VQModel
//! kl_config.rs           the options of diffusers' AutoencoderKL
//! block_types.rs         the levels of the networks
//! encoder.rs decoder.rs  the two networks, made from the part of the options in shape.rs
//! ```

mod block_types;
mod config;
mod decoder;
mod encoder;
mod kl_config;
mod model;
mod shape;
mod vq_config;

pub use block_types::{DecoderBlockType, EncoderBlockType};
pub use config::AutoencoderConfig;
pub use kl_config::AutoencoderKlConfig;
pub use model::Autoencoder;
pub use vq_config::{NormType, VqVaeConfig};

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;
pub(crate) use shape::CoderShape;
