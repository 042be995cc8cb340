use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::block_types::{DecoderBlockType, EncoderBlockType};
use super::shape::CoderShape;
use crate::ConfigError;
use crate::blocks::Activation;
use crate::config::{
    self, require, require_channels, require_halving, require_image_channels, require_levels,
    require_scaling_factor,
};

/// The options of a variational autoencoder (Kingma and Welling 2014; Rombach et al. 2022, section 3.1): with the names
/// and defaults of diffusers' `AutoencoderKL`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKlConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the reconstructions.
    pub out_channels: usize,
    /// The encoder's levels, from the image inwards.
    pub down_block_types: Vec<EncoderBlockType>,
    /// The decoder's levels, from the latents outwards.
    pub up_block_types: Vec<DecoderBlockType>,
    /// The width of each level, from the image inwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// The activation of the residual blocks.
    pub act_fn: Activation,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// The side of the images that the model was made for. Other sizes work too.
    pub sample_size: usize,
    /// 1 / the standard deviation of the latents over the training set. Encoding and decoding do *not* apply it: see
    /// [`Autoencoder::normalised`](crate::Autoencoder::normalised).
    pub scaling_factor: f64,
    /// The mean of the latents over the training set, subtracted before they are scaled; 0 if absent.
    pub shift_factor: Option<f64>,
    /// A mean for every channel, which no model of this family has: it must be null.
    pub latents_mean: Option<Value>,
    /// A standard deviation for every channel, which no model of this family has: it must be null.
    pub latents_std: Option<Value>,
    /// A flag for half-precision pipelines in Python, stored but not used: everything is f32 here.
    pub force_upcast: bool,
    /// Whether means and variances go through a 1x1 convolution.
    pub use_quant_conv: bool,
    /// Whether latents go through a 1x1 convolution before they are decoded.
    pub use_post_quant_conv: bool,
    /// Whether the blocks in the middle of encoder and decoder have self-attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// The name of this model in diffusers.
    pub const CLASS: &'static str = "AutoencoderKL";

    /// Reads and [validates](Self::validate) a diffusers `config.json`.
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, not supported or impossible.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::from_json(text, Self::CLASS)?;
        config.validate()?;
        Ok(config)
    }

    /// Writes the `config.json` that diffusers (and [`Self::from_json`]) reads.
    pub fn to_json(&self) -> String {
        config::to_json(self, Self::CLASS)
    }

    pub(crate) fn coders(&self) -> CoderShape<'_> {
        CoderShape {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: &self.down_block_types,
            up_block_types: &self.up_block_types,
            block_out_channels: &self.block_out_channels,
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            mid_block_attention: self.mid_block_add_attention,
            // Means and variances.
            encoded_channels: 2 * self.latent_channels,
            latent_channels: self.latent_channels,
        }
    }

    /// Checks that the options fit each other, before anything is allocated.
    ///
    /// # Errors
    /// Names the first option that does not fit, and what would be valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_image_channels(self.in_channels, self.out_channels)?;
        require_channels("latent_channels", self.latent_channels)?;
        require_levels(
            &self.block_out_channels,
            self.down_block_types.len(),
            self.up_block_types.len(),
            self.layers_per_block,
            self.norm_num_groups,
        )?;
        let levels = self.block_out_channels.len();
        require_halving("sample_size", self.sample_size, levels)?;
        require_scaling_factor(self.scaling_factor)?;
        require(
            self.shift_factor
                .is_none_or(|shift| (shift as f32).is_finite()),
            "shift_factor",
            self.shift_factor,
            "it must be a number",
        )?;
        for (key, values) in [
            ("latents_mean", &self.latents_mean),
            ("latents_std", &self.latents_std),
        ] {
            let problem = "statistics of single channels are not supported, only null is";
            require(values.is_none(), key, values, problem)?;
        }
        Ok(())
    }
}
