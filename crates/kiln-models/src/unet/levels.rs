//! The widths of the U-Net's levels, and the connections between them.

use burn::tensor::Device;

use super::config::{DownBlockType, MidBlockType, ResampleType, UNet2dConfig, UpBlockType};
use crate::blocks::{
    BlockOptions, DownBlock, DownBlockShape, MidBlock, MidBlockShape, Resampling, TimeScaleShift,
    UpBlock, UpBlockShape,
};

impl UNet2dConfig {
    pub(super) fn block_options<'a>(&self, device: &'a Device) -> BlockOptions<'a> {
        BlockOptions {
            device,
            time_channels: self.time_channels(),
            time_scale_shift: self.resnet_time_scale_shift,
            groups: self.norm_num_groups,
            epsilon: self.norm_eps,
            dropout: self.dropout,
            head_channels: self.attention_head_dim,
            downsample_padding: self.downsample_padding,
        }
    }

    pub(super) fn down_blocks(&self, options: &BlockOptions) -> Vec<DownBlock> {
        let block = |shape| DownBlock::new(shape, options);
        self.down_shapes().into_iter().map(block).collect()
    }

    /// The levels on the way down, from the sample inwards.
    pub(crate) fn down_shapes(&self) -> Vec<DownBlockShape> {
        let widths = &self.block_out_channels;
        let levels = self.down_block_types.iter().zip(widths).enumerate();
        levels
            .map(|(level, (kind, &channels_out))| {
                let attention = *kind == DownBlockType::AttnDownBlock2D;
                DownBlockShape {
                    channels_in: widths[level.saturating_sub(1)],
                    channels_out,
                    layers: self.layers_per_block,
                    attention,
                    resampling: self.resampling(level, attention, self.downsample_type),
                }
            })
            .collect()
    }

    pub(super) fn mid_block(&self, options: &BlockOptions) -> Option<MidBlock> {
        Some(MidBlock::new(self.mid_shape()?, options))
    }

    /// The block in the middle, if there is one.
    pub(crate) fn mid_shape(&self) -> Option<MidBlockShape> {
        let MidBlockType::UNetMidBlock2D = self.mid_block_type?;
        let default_groups = (self.resnet_time_scale_shift == TimeScaleShift::Default)
            .then_some(self.norm_num_groups);
        Some(MidBlockShape {
            channels: self.block_out_channels.last().copied().unwrap_or_default(),
            attention: self.add_attention,
            attention_groups: self.attn_norm_num_groups.or(default_groups),
            output_scale_factor: self.mid_block_scale_factor,
        })
    }

    pub(super) fn up_blocks(&self, options: &BlockOptions) -> Vec<UpBlock> {
        let block = |shape| UpBlock::new(shape, options);
        self.up_shapes().into_iter().map(block).collect()
    }

    /// The levels on the way up, from the middle outwards.
    ///
    /// Every layer takes the output from below and the skip of its counterpart. A level uses the
    /// last `layers_per_block` + 1 skips that the way down kept.
    pub(crate) fn up_shapes(&self) -> Vec<UpBlockShape> {
        let widths: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        let levels = self.up_block_types.iter().zip(&widths).enumerate();
        levels
            .map(|(level, (kind, &channels_out))| {
                let below = widths[level.saturating_sub(1)];
                // The last skip was kept before this level's counterpart widened it.
                let above = widths.get(level + 1).copied().unwrap_or(channels_out);
                let layers = self.layers_per_block + 1;
                let channels_in = (0..layers).map(|layer| {
                    let hidden = if layer == 0 { below } else { channels_out };
                    let skip = if layer == layers - 1 {
                        above
                    } else {
                        channels_out
                    };
                    hidden + skip
                });
                let attention = *kind == UpBlockType::AttnUpBlock2D;
                UpBlockShape {
                    channels_in: channels_in.collect(),
                    channels_out,
                    attention,
                    resampling: self.resampling(level, attention, self.upsample_type),
                }
            })
            .collect()
    }

    /// Every level but the last resamples; only levels with attention use `kind`.
    fn resampling(&self, level: usize, attention: bool, kind: ResampleType) -> Resampling {
        if level + 1 == self.block_out_channels.len() {
            Resampling::None
        } else if attention && kind == ResampleType::Resnet {
            Resampling::Residual
        } else {
            Resampling::Convolution
        }
    }
}
