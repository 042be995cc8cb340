//! What the blocks of a network are made from.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// The activation of the residual blocks. diffusers also knows `mish`, `gelu` and `relu`, which no
/// published model of these classes uses and which are not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// x * sigmoid(x), also called swish.
    #[default]
    #[serde(alias = "swish")]
    Silu,
}

/// How a residual block uses the time embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
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
