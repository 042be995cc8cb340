use std::iter;

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use super::block_types::EncoderBlockType;
use super::shape::CoderShape;
use crate::blocks::{
    BlockOptions, DownBlock, DownBlockShape, MidBlock, Resampling, conv3x3, convolution,
    group_norm, norm_silu,
};

/// Images to the bottleneck's input: diffusers' `Encoder`.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
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
        let down_blocks = levels.map(|level| DownBlock::new(level, options));
        Self {
            conv_in: conv3x3(shape.in_channels, outermost, device),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock::new(shape.mid_block(), options),
            conv_norm_out: group_norm(groups, innermost, epsilon, device),
            conv_out: conv3x3(innermost, shape.encoded_channels, device),
        }
    }

    /// The levels, from the image inwards.
    pub(crate) fn levels(shape: &CoderShape<'_>) -> Vec<DownBlockShape> {
        let widths = shape.block_out_channels;
        let levels = shape.down_block_types.iter().zip(widths).enumerate();
        levels
            .map(|(level, (kind, &channels_out))| DownBlockShape {
                channels_in: widths[level.saturating_sub(1)],
                channels_out,
                layers: shape.layers_per_block,
                attention: *kind == EncoderBlockType::AttnDownEncoderBlock2D,
                resampling: if level + 1 == widths.len() {
                    Resampling::None
                } else {
                    Resampling::Convolution
                },
            })
            .collect()
    }

    /// `[batch, height, width, in_channels]` to `[batch, h, w, encoded_channels]`.
    pub(super) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let mut hidden = convolution(&self.conv_in, images).forward();
        for block in &self.down_blocks {
            hidden = block.forward(hidden, &mut iter::empty(), |_| {});
        }
        hidden = self.mid_block.forward(hidden, &mut iter::empty());
        convolution(&self.conv_out, hidden)
            .after(norm_silu(&self.conv_norm_out))
            .forward()
    }
}
