use serde::{Deserialize, Serialize};

use super::block_types::{DecoderBlockType, EncoderBlockType};
use super::shape::CoderShape;
use crate::ConfigError;
use crate::blocks::Activation;
use crate::bottleneck::QuantizerConfig;
use crate::config::{
    self, require_channels, require_halving, require_image_channels, require_levels, require_rows,
    require_scaling_factor,
};

/// How the decoder normalises. diffusers also knows `spatial` (MoVQ), which is not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormType {
    /// Group normalisation.
    #[default]
    Group,
}

/// The options of a VQ-VAE (van den Oord et al. 2017): with the names and defaults of diffusers' `VQModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqVaeConfig {
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
    /// Channels of the encoder's output, before the 1x1 convolution to `vq_embed_dim`.
    pub latent_channels: usize,
    /// The side of the images that the model was made for. Other sizes work too.
    pub sample_size: usize,
    /// The number of vectors in the codebook, or in each of several tables.
    pub num_vq_embeddings: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// The dimension of the codebook's vectors; if absent, what the quantizer asks for or `latent_channels`.
    pub vq_embed_dim: Option<usize>,
    /// 1 / the standard deviation of the latents over the training set. Encoding and decoding do *not* apply it:
    /// training and sampling in latent space do.
    pub scaling_factor: f64,
    /// How the decoder normalises.
    pub norm_type: NormType,
    /// Whether the blocks in the middle of encoder and decoder have self-attention.
    pub mid_block_add_attention: bool,
    /// A flag of diffusers' own `decode`, which may take codes instead of latents; stored but not used. Here
    /// [`VectorQuantizer::look_up`](crate::bottleneck::vq::VectorQuantizer::look_up) does this.
    pub lookup_from_codebook: bool,
    /// A flag for half-precision pipelines in Python, stored but not used: everything is f32 here.
    pub force_upcast: bool,
    /// The kind of quantizer: kiln's own key, which the files of a plain codebook do not have.
    #[serde(skip_serializing_if = "QuantizerConfig::is_vq")]
    pub quantizer: QuantizerConfig,
}

impl Default for VqVaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 3,
            sample_size: 32,
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            scaling_factor: 0.18215,
            norm_type: NormType::Group,
            mid_block_add_attention: true,
            lookup_from_codebook: false,
            force_upcast: false,
            quantizer: QuantizerConfig::Vq,
        }
    }
}

impl VqVaeConfig {
    /// The name of this model in diffusers.
    pub const CLASS: &'static str = "VQModel";

    /// Reads and [validates](Self::validate) a diffusers `config.json`.
    ///
    /// A file of diffusers before 0.12 has no `scaling_factor` and means 1: at that time pipelines decoded latents
    /// unscaled (CompVis/ldm-celebahq-256 is such a model).
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type, not supported or impossible.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = config::from_json_with(text, Self::CLASS, &["quantizer"])?;
        if config::was_written_before(text, [0, 12]) && !config::has_key(text, "scaling_factor") {
            config.scaling_factor = 1.0;
        }
        config.validate()?;
        Ok(config)
    }

    /// Writes the `config.json` that diffusers (and [`Self::from_json`]) reads.
    pub fn to_json(&self) -> String {
        config::to_json(self, Self::CLASS)
    }

    /// Checks that the options fit each other, before anything is allocated.
    ///
    /// # Errors
    /// Names the first option that does not fit, and what would be valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_image_channels(self.in_channels, self.out_channels)?;
        require_channels("latent_channels", self.latent_channels)?;
        require_rows("num_vq_embeddings", self.num_vq_embeddings)?;
        (self.quantizer).validate(self.num_vq_embeddings, self.vq_embed_dim)?;
        require_channels("vq_embed_dim", self.latent_dim())?;
        require_levels(
            &self.block_out_channels,
            self.down_block_types.len(),
            self.up_block_types.len(),
            self.layers_per_block,
            self.norm_num_groups,
        )?;
        require_halving(
            "sample_size",
            self.sample_size,
            self.block_out_channels.len(),
        )?;
        require_scaling_factor(self.scaling_factor)
    }

    /// Channels of the latents: the dimension of the codebook's vectors.
    pub fn latent_dim(&self) -> usize {
        let own = self.quantizer.own_codes_and_channels();
        let default = own.map_or(self.latent_channels, |(_, channels)| channels);
        self.vq_embed_dim.unwrap_or(default)
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
            encoded_channels: self.latent_channels,
            latent_channels: self.latent_channels,
        }
    }

    /// The ratio of an image's side to its latents' side: every level but the last halves.
    pub fn downscale_factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}
