//! The blocks of the VQ-VAE and the U-Net.
//!
//! Their fields have diffusers' names, so that a parameter's path here is its key there. All group normalisations go
//! through [`norm`], all 3x3 convolutions through [`convolution`] and all attention through [`attention`], so each can
//! be made faster in one place.
//!
//! Feature maps are channels-last, `[batch, height, width, channels]`: the networks change the layout at their edges.

mod attention;
mod convolution;
mod down;
mod mid;
mod norm;
mod pixels;
mod resample;
mod residual;
mod up;

pub(crate) use attention::Attention;
pub(crate) use convolution::{conv1x1, conv3x3, convolution, doubling_convolution};
pub(crate) use down::{DownBlock, DownBlockShape};
pub(crate) use mid::{MidBlock, MidBlockShape};
pub(crate) use norm::{group_norm, norm, norm_silu};
pub(crate) use resample::{Downsampler, Upsampler};
pub(crate) use residual::ResidualBlock;
pub(crate) use up::{UpBlock, UpBlockShape};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// The activation of the residual blocks. diffusers also knows `mish`, `gelu` and `relu`, which no
/// published model of these classes uses and which are not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x * sigmoid(x), also called swish.
    #[default]
    #[serde(alias = "swish")]
    Silu,
}

/// How a residual block uses the time embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added between the convolutions, as in DDPM (Ho et al. 2020).
    #[default]
    Default,
    /// It scales and shifts the second normalisation, as in ADM (Dhariwal and Nichol 2021).
    ScaleShift,
}

/// A block's change of the resolution at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resampling {
    /// Keeps it: the innermost or outermost level.
    None,
    /// Halves or doubles it by a convolution; halving pads as `downsample_padding` says.
    Convolution,
    /// Halves or doubles it in a residual block.
    Residual,
}

/// The options that all blocks of a network share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOptions<'a> {
    /// The device of the parameters.
    pub device: &'a Device,
    /// Width of the time embedding; `None` for the VQ-VAE, which has no time.
    pub time_channels: Option<usize>,
    /// How residual blocks use the time embedding.
    pub time_scale_shift: TimeScaleShift,
    /// Groups of the normalisations.
    pub groups: usize,
    /// Added to the variance in the normalisations.
    pub epsilon: f64,
    /// Share of activations dropped while training.
    pub dropout: f64,
    /// Channels of an attention head; `None` is one head of all channels.
    pub head_channels: Option<usize>,
    /// Padding of the stride-2 convolutions, 0 or 1.
    pub downsample_padding: usize,
}
