//! Halving and doubling an image's sides.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};

use super::convolution::conv3x3_halving;
use super::residual::Resolution;
use super::{BlockOptions, Resampling, ResidualBlock, conv3x3, convolve};

/// A 3x3 convolution of stride 2.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

/// Every pixel repeated 2x2, then a 3x3 convolution.
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

/// The end of a level on the way down.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a network holds a handful of these, and a module cannot be boxed"
)]
pub(crate) enum Downsampler {
    /// A convolution of stride 2.
    Convolution(Downsample),
    /// A residual block that averages 2x2 pixels.
    Residual(ResidualBlock),
}

/// The end of a level on the way up.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a network holds a handful of these, and a module cannot be boxed"
)]
pub(crate) enum Upsampler {
    /// Pixels repeated 2x2, and a convolution.
    Convolution(Upsample),
    /// A residual block that repeats pixels 2x2.
    Residual(ResidualBlock),
}

impl Downsampler {
    pub(crate) fn new(
        resampling: Resampling,
        channels: usize,
        options: &BlockOptions,
    ) -> Option<Self> {
        match resampling {
            Resampling::None => None,
            Resampling::Convolution => Some(Self::Convolution(Downsample {
                conv: conv3x3_halving(channels, options.downsample_padding, options.device),
            })),
            Resampling::Residual => Some(Self::Residual(
                ResidualBlock::new(channels, channels, options).with_resolution(Resolution::Halved),
            )),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, channels, height / 2, width / 2]`.
    pub(crate) fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        match self {
            Self::Convolution(downsample) => convolve(&downsample.conv, x),
            Self::Residual(block) => block.forward(x, time),
        }
    }
}

impl Upsampler {
    pub(crate) fn new(
        resampling: Resampling,
        channels: usize,
        options: &BlockOptions,
    ) -> Option<Self> {
        match resampling {
            Resampling::None => None,
            Resampling::Convolution => Some(Self::Convolution(Upsample {
                conv: conv3x3(channels, channels, options.device),
            })),
            Resampling::Residual => Some(Self::Residual(
                ResidualBlock::new(channels, channels, options)
                    .with_resolution(Resolution::Doubled),
            )),
        }
    }

    /// `[batch, channels, height, width]` to `[batch, channels, 2 height, 2 width]`.
    pub(crate) fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        match self {
            Self::Convolution(upsample) => convolve(&upsample.conv, repeat_2x2(x)),
            Self::Residual(block) => block.forward(x, time),
        }
    }
}

/// `[batch, channels, height, width]` to `[batch, channels, height / 2, width / 2]`.
pub(crate) fn average_2x2(x: Tensor<4>) -> Tensor<4> {
    avg_pool2d(x, AvgPoolOptions::new([2, 2]).with_stride([2, 2]))
}

/// `[batch, channels, height, width]` to `[batch, channels, 2 height, 2 width]`.
pub(crate) fn repeat_2x2(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let options = InterpolateOptions::new(InterpolateMode::Nearest)
        .with_align_corners(false)
        .with_output_size([2 * height, 2 * width]);
    interpolate(x, options)
}
