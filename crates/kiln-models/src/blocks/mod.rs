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
mod dropout;
mod mid;
mod norm;
mod options;
mod pixels;
mod resample;
mod residual;
mod up;

pub(crate) use convolution::{conv1x1, conv3x3, convolution, linear};
pub(crate) use down::{DownBlock, DownBlockShape};
pub use dropout::with_dropout_at;
pub(crate) use mid::{MidBlock, MidBlockShape};
pub(crate) use norm::{group_norm, norm, norm_silu};
pub use options::{Activation, TimeScaleShift};
pub(crate) use options::{BlockOptions, Resampling};
pub(crate) use pixels::channels_first;
pub(crate) use residual::ResidualBlock;
pub(crate) use up::{UpBlock, UpBlockShape};
