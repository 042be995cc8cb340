//! The options from which encoder and decoder are made.

use burn::tensor::Device;

use super::block_types::{DecoderBlockType, EncoderBlockType};
use crate::blocks::{BlockOptions, MidBlockShape, TimeScaleShift};

/// Added to the variance in every group normalisation of diffusers' autoencoders.
const EPSILON: f64 = 1e-6;

/// The part of a config that all kinds have in common.
pub(crate) struct CoderShape<'a> {
    /// Channels of the images.
    pub(crate) in_channels: usize,
    /// Channels of the decoded images.
    pub(crate) out_channels: usize,
    /// The encoder's levels, from the image inwards.
    pub(crate) down_block_types: &'a [EncoderBlockType],
    /// The decoder's levels, from the latents outwards.
    pub(crate) up_block_types: &'a [DecoderBlockType],
    /// The width of each level, from the image inwards.
    pub(crate) block_out_channels: &'a [usize],
    /// Residual blocks per level in the encoder; the decoder has one more.
    pub(crate) layers_per_block: usize,
    /// Groups of every group normalisation.
    pub(crate) norm_num_groups: usize,
    /// Whether the blocks in the middle have self-attention.
    pub(crate) mid_block_attention: bool,
    /// Channels that the encoder puts out.
    pub(crate) encoded_channels: usize,
    /// Channels that the decoder takes in.
    pub(crate) latent_channels: usize,
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
