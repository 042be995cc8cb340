//! Halving and doubling an image's sides.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use super::convolution::{conv3x3, conv3x3_halving, convolution, doubling_convolution};
use super::options::{BlockOptions, Resampling};
use super::residual::{ResidualBlock, Resolution, Times};

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

    /// The residual block in it, if there is one.
    pub(crate) fn residual_block(&self) -> Option<&ResidualBlock> {
        match self {
            Self::Convolution(_) => None,
            Self::Residual(block) => Some(block),
        }
    }

    /// `[batch, height, width, channels]` to `[batch, height / 2, width / 2, channels]`.
    pub(crate) fn forward(&self, x: Tensor<4>, times: &mut Times) -> Tensor<4> {
        match self {
            Self::Convolution(downsample) => convolution(&downsample.conv, x).forward(),
            Self::Residual(block) => block.forward(x, times),
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

    /// The residual block in it, if there is one.
    pub(crate) fn residual_block(&self) -> Option<&ResidualBlock> {
        match self {
            Self::Convolution(_) => None,
            Self::Residual(block) => Some(block),
        }
    }

    /// `[batch, height, width, channels]` to `[batch, 2 height, 2 width, channels]`.
    pub(crate) fn forward(&self, x: Tensor<4>, times: &mut Times) -> Tensor<4> {
        match self {
            Self::Convolution(upsample) => doubling_convolution(&upsample.conv, x).forward(),
            Self::Residual(block) => block.forward(x, times),
        }
    }
}
