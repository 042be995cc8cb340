use std::iter;

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use kiln_kernels::Images;

use super::block_types::DecoderBlockType;
use super::shape::CoderShape;
use crate::blocks::{
    BlockOptions, MidBlock, Resampling, UpBlock, UpBlockShape, conv3x3, convolution, group_norm,
    norm_silu,
};

/// Latents to images: diffusers' `Decoder`.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    conv_in: Conv2d,
    up_blocks: Vec<UpBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(shape: &CoderShape, options: &BlockOptions) -> Self {
        let BlockOptions {
            device,
            groups,
            epsilon,
            ..
        } = *options;
        let widths = shape.block_out_channels;
        let outermost = widths.first().copied().unwrap_or_default();
        let innermost = widths.last().copied().unwrap_or_default();
        let levels = Self::levels(shape).into_iter();
        let up_blocks = levels.map(|level| UpBlock::new(level, options));
        Self {
            conv_in: conv3x3(shape.latent_channels, innermost, device),
            up_blocks: up_blocks.collect(),
            mid_block: MidBlock::new(shape.mid_block(), options),
            conv_norm_out: group_norm(groups, outermost, epsilon, device),
            conv_out: conv3x3(outermost, shape.out_channels, device),
        }
    }

    /// The levels, from the latents outwards.
    pub(crate) fn levels(shape: &CoderShape<'_>) -> Vec<UpBlockShape> {
        let widths: Vec<usize> = shape.block_out_channels.iter().rev().copied().collect();
        let levels = shape.up_block_types.iter().zip(&widths).enumerate();
        levels
            .map(|(level, (kind, &channels_out))| {
                let mut channels_in = vec![channels_out; shape.layers_per_block + 1];
                channels_in[0] = widths[level.saturating_sub(1)];
                UpBlockShape {
                    channels_in,
                    channels_out,
                    attention: *kind == DecoderBlockType::AttnUpDecoderBlock2D,
                    resampling: if level + 1 == widths.len() {
                        Resampling::None
                    } else {
                        Resampling::Convolution
                    },
                }
            })
            .collect()
    }

    /// `[batch, h, w, latent_channels]` to `[batch, height, width, out_channels]`.
    pub(super) fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut hidden = convolution(&self.conv_in, latents).forward();
        hidden = self.mid_block.forward(hidden, &mut iter::empty());
        for block in &self.up_blocks {
            hidden = block.forward(hidden, &mut iter::empty(), Images::from);
        }
        convolution(&self.conv_out, hidden)
            .after(norm_silu(&self.conv_norm_out))
            .forward()
    }
}
