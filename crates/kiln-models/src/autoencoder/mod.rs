//! The first stage of latent diffusion: an autoencoder of either kind, and what both kinds are made of.

mod decoder;
mod encoder;
mod kl;
mod kl_config;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;
pub use kl::AutoencoderKl;
pub use kl_config::AutoencoderKlConfig;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::blocks::{BlockOptions, MidBlockShape, TimeScaleShift};
use crate::{ConfigError, DecoderBlockType, EncoderBlockType, VqVae, VqVaeConfig, config};

/// Added to the variance in every group normalisation of diffusers' autoencoders.
const EPSILON: f64 = 1e-6;

/// An autoencoder in whose latents a U-Net can work.
///
/// Latents are what [`encode`](Self::encode) gives and [`decode`](Self::decode) takes. The U-Net sees them
/// [normalised](Self::normalised), to a standard deviation of about one.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a model holds one of these, and a module cannot be boxed"
)]
pub enum Autoencoder {
    /// With a codebook, as kiln trains it: decoding takes the nearest codes.
    Vq(VqVae),
    /// Without one, as in Stable Diffusion: latents are the mean of a normal distribution, decoded as they are.
    Kl(AutoencoderKl),
}

impl Autoencoder {
    /// A new autoencoder for a diffusers `config.json`, of the kind that its `_class_name` says: a [`VqVae`] if it says
    /// nothing. See [`VqVaeConfig::init`] and [`AutoencoderKlConfig::init`].
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, not supported or impossible.
    pub fn from_json(text: &str, device: &Device, seed: u64) -> Result<Self, ConfigError> {
        if config::class_name(text).as_deref() == Some(AutoencoderKlConfig::CLASS) {
            let config = AutoencoderKlConfig::from_json(text)?;
            Ok(Self::Kl(config.init(device, seed)?))
        } else {
            let config = VqVaeConfig::from_json(text)?;
            Ok(Self::Vq(config.init(device, seed)?))
        }
    }

    /// The `config.json` that diffusers (and [`Self::from_json`]) reads.
    pub fn to_json(&self) -> String {
        match self {
            Self::Vq(vqvae) => vqvae.config().to_json(),
            Self::Kl(autoencoder) => autoencoder.config().to_json(),
        }
    }

    /// The name of this model in diffusers.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Vq(_) => VqVaeConfig::CLASS,
            Self::Kl(_) => AutoencoderKlConfig::CLASS,
        }
    }

    /// The one with a codebook, if it is one.
    pub fn vqvae(&self) -> Option<&VqVae> {
        match self {
            Self::Vq(vqvae) => Some(vqvae),
            Self::Kl(_) => None,
        }
    }

    /// Images `[batch, in_channels, height, width]` in [-1, 1] to latents `[batch, latent_dim, h, w]`, where h = height /
    /// [`downscale_factor`](Self::downscale_factor).
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Vq(vqvae) => vqvae.encode(images),
            Self::Kl(autoencoder) => autoencoder.encode(images),
        }
    }

    /// Latents `[batch, latent_dim, h, w]` to images `[batch, out_channels, height, width]` in about [-1, 1].
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Vq(vqvae) => vqvae.decode(latents),
            Self::Kl(autoencoder) => autoencoder.decode(latents),
        }
    }

    /// What the U-Net works on: (latents - `shift_factor`) * `scaling_factor`.
    pub fn normalised(&self, latents: Tensor<4>) -> Tensor<4> {
        (latents - self.shift_factor()) * self.scaling_factor()
    }

    /// The latents that are [normalised](Self::normalised) to `z0`.
    pub fn denormalised(&self, z0: Tensor<4>) -> Tensor<4> {
        z0 / self.scaling_factor() + self.shift_factor()
    }

    /// What latents are multiplied by to have a standard deviation of one.
    pub fn scaling_factor(&self) -> f64 {
        match self {
            Self::Vq(vqvae) => vqvae.scaling_factor(),
            Self::Kl(autoencoder) => autoencoder.config().scaling_factor,
        }
    }

    /// What is taken off the latents before: 0 but in a few models.
    pub fn shift_factor(&self) -> f64 {
        match self {
            Self::Vq(_) => 0.0,
            Self::Kl(autoencoder) => autoencoder.config().shift_factor.unwrap_or(0.0),
        }
    }

    /// Sets the scaling factor, once it has been measured over the training set's latents.
    pub fn with_scaling_factor(self, scaling_factor: f64) -> Self {
        match self {
            Self::Vq(vqvae) => Self::Vq(vqvae.with_scaling_factor(scaling_factor)),
            Self::Kl(autoencoder) => Self::Kl(autoencoder.with_scaling_factor(scaling_factor)),
        }
    }

    /// Channels of the images.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Vq(vqvae) => vqvae.config().in_channels,
            Self::Kl(autoencoder) => autoencoder.config().in_channels,
        }
    }

    /// Channels of the latents.
    pub fn latent_dim(&self) -> usize {
        match self {
            Self::Vq(vqvae) => vqvae.config().latent_dim(),
            Self::Kl(autoencoder) => autoencoder.config().latent_channels,
        }
    }

    /// The width of each level, from the image inwards.
    pub fn block_out_channels(&self) -> &[usize] {
        match self {
            Self::Vq(vqvae) => &vqvae.config().block_out_channels,
            Self::Kl(autoencoder) => &autoencoder.config().block_out_channels,
        }
    }

    /// How many times smaller than the image the latents are along each side: every level but the last halves.
    pub fn downscale_factor(&self) -> usize {
        1 << self.block_out_channels().len().saturating_sub(1)
    }

    /// The side of the images that the model was made for. Other sizes work too.
    pub fn sample_size(&self) -> usize {
        match self {
            Self::Vq(vqvae) => vqvae.config().sample_size,
            Self::Kl(autoencoder) => autoencoder.config().sample_size,
        }
    }
}

/// What encoder and decoder are made from, which both kinds have in common.
pub(crate) struct CoderShape<'a> {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the decoded images.
    pub out_channels: usize,
    /// The encoder's levels, from the image inwards.
    pub down_block_types: &'a [EncoderBlockType],
    /// The decoder's levels, from the latents outwards.
    pub up_block_types: &'a [DecoderBlockType],
    /// The width of each level, from the image inwards.
    pub block_out_channels: &'a [usize],
    /// Residual blocks a level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Whether the blocks in the middle have self-attention.
    pub mid_block_attention: bool,
    /// Channels that the encoder puts out.
    pub encoded_channels: usize,
    /// Channels that the decoder takes in.
    pub latent_channels: usize,
}

impl CoderShape<'_> {
    pub(crate) fn block_options<'a>(&self, device: &'a Device) -> BlockOptions<'a> {
        BlockOptions {
            device,
            time_channels: None,
            time_scale_shift: TimeScaleShift::Default,
            groups: self.norm_num_groups,
            epsilon: EPSILON,
            dropout: 0.0,
            head_channels: None,
            downsample_padding: 0,
        }
    }

    pub(crate) fn mid_block(&self) -> MidBlockShape {
        MidBlockShape {
            channels: self.block_out_channels.last().copied().unwrap_or_default(),
            attention: self.mid_block_attention,
            attention_groups: Some(self.norm_num_groups),
            output_scale_factor: 1.0,
        }
    }
}
