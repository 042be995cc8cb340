//! The options of an autoencoder of either kind.

use serde_json::{Value, json};

use super::kl_config::AutoencoderKlConfig;
use super::shape::CoderShape;
use super::vq_config::VqVaeConfig;
use crate::bottleneck::QuantizerConfig;
use crate::{ConfigError, config};

/// diffusers' `config.json` of an autoencoder: the kind is its `_class_name`.
#[derive(Clone, Debug, PartialEq)]
pub enum AutoencoderConfig {
    /// `VQModel`, with a codebook.
    Vq(VqVaeConfig),
    /// `AutoencoderKL`, with a normal distribution, as in Stable Diffusion.
    Kl(AutoencoderKlConfig),
}

impl AutoencoderConfig {
    /// Reads and validates a diffusers `config.json`. A file without a class is a `VQModel`'s.
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, not supported or impossible.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        if config::class_name(text).as_deref() == Some(AutoencoderKlConfig::CLASS) {
            AutoencoderKlConfig::from_json(text).map(Self::Kl)
        } else {
            VqVaeConfig::from_json(text).map(Self::Vq)
        }
    }

    /// The `config.json` that diffusers (and [`Self::from_json`]) reads.
    pub fn to_json(&self) -> String {
        match self {
            Self::Vq(config) => config.to_json(),
            Self::Kl(config) => config.to_json(),
        }
    }

    /// Checks that the options fit each other, before anything is allocated.
    ///
    /// # Errors
    /// Names the first option that does not fit, and what would be valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Vq(config) => config.validate(),
            Self::Kl(config) => config.validate(),
        }
    }

    /// The name of this model in diffusers.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Vq(_) => VqVaeConfig::CLASS,
            Self::Kl(_) => AutoencoderKlConfig::CLASS,
        }
    }

    /// What decides latents and images, and which the weights and their shapes do not tell.
    pub fn untold_by_weights(&self) -> Value {
        match self {
            Self::Vq(VqVaeConfig {
                down_block_types,
                up_block_types,
                act_fn,
                norm_num_groups,
                norm_type,
                quantizer,
                // These the weights tell,
                in_channels: _,
                out_channels: _,
                block_out_channels: _,
                layers_per_block: _,
                latent_channels: _,
                num_vq_embeddings: _,
                vq_embed_dim: _,
                mid_block_add_attention: _,
                // and these change nothing of what the networks compute.
                sample_size: _,
                scaling_factor: _,
                lookup_from_codebook: _,
                force_upcast: _,
            }) => {
                let mut options = vec![
                    json!(down_block_types),
                    json!(up_block_types),
                    json!(act_fn),
                    json!(norm_num_groups),
                    json!(norm_type),
                ];
                if !quantizer.is_vq() {
                    options.push(json!(quantizer));
                }
                Value::Array(options)
            }
            Self::Kl(AutoencoderKlConfig {
                down_block_types,
                up_block_types,
                act_fn,
                norm_num_groups,
                in_channels: _,
                out_channels: _,
                block_out_channels: _,
                layers_per_block: _,
                latent_channels: _,
                use_quant_conv: _,
                use_post_quant_conv: _,
                mid_block_add_attention: _,
                sample_size: _,
                scaling_factor: _,
                shift_factor: _,
                latents_mean: _,
                latents_std: _,
                force_upcast: _,
            }) => json!([
                AutoencoderKlConfig::CLASS,
                down_block_types,
                up_block_types,
                act_fn,
                norm_num_groups,
            ]),
        }
    }

    /// The quantizer that only kiln has, if the autoencoder has such a one. Then no other program loads it.
    pub fn own_quantizer(&self) -> Option<&QuantizerConfig> {
        let quantizer = &self.vq()?.quantizer;
        (!quantizer.is_vq()).then_some(quantizer)
    }

    /// The options of a `VQModel`, if it is one.
    pub fn vq(&self) -> Option<&VqVaeConfig> {
        match self {
            Self::Vq(config) => Some(config),
            Self::Kl(_) => None,
        }
    }

    /// The factor that gives latents a standard deviation of one.
    pub fn scaling_factor(&self) -> f64 {
        match self {
            Self::Vq(config) => config.scaling_factor,
            Self::Kl(config) => config.scaling_factor,
        }
    }

    pub(super) fn set_scaling_factor(&mut self, scaling_factor: f64) {
        match self {
            Self::Vq(config) => config.scaling_factor = scaling_factor,
            Self::Kl(config) => config.scaling_factor = scaling_factor,
        }
    }

    /// Subtracted from the latents before they are scaled: 0 except in a few models.
    pub fn shift_factor(&self) -> f64 {
        match self {
            Self::Vq(_) => 0.0,
            Self::Kl(config) => config.shift_factor.unwrap_or(0.0),
        }
    }

    /// Channels of the images.
    pub fn in_channels(&self) -> usize {
        self.coders().in_channels
    }

    /// Channels of the reconstructions.
    pub fn out_channels(&self) -> usize {
        self.coders().out_channels
    }

    /// Channels of the latents.
    pub fn latent_dim(&self) -> usize {
        match self {
            Self::Vq(config) => config.latent_dim(),
            Self::Kl(config) => config.latent_channels,
        }
    }

    /// The width of each level, from the image inwards.
    pub fn block_out_channels(&self) -> &[usize] {
        self.coders().block_out_channels
    }

    /// The ratio of an image's side to its latents' side: every level but the last halves.
    pub fn downscale_factor(&self) -> usize {
        1 << self.block_out_channels().len().saturating_sub(1)
    }

    /// The side of the images that the model was made for. Other sizes work too.
    pub fn sample_size(&self) -> usize {
        match self {
            Self::Vq(config) => config.sample_size,
            Self::Kl(config) => config.sample_size,
        }
    }

    /// Sets the side of the images that the model is made for.
    pub fn set_sample_size(&mut self, side: usize) {
        match self {
            Self::Vq(config) => config.sample_size = side,
            Self::Kl(config) => config.sample_size = side,
        }
    }

    pub(crate) fn coders(&self) -> CoderShape<'_> {
        match self {
            Self::Vq(config) => config.coders(),
            Self::Kl(config) => config.coders(),
        }
    }
}
