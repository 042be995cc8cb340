//! The convolutions that both networks are made of.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use kiln_kernels::{Padding, conv2d};

/// A 3x3 convolution that keeps the size.
pub(crate) fn conv3x3(channels_in: usize, channels_out: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels_in, channels_out], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// A 3x3 convolution of stride 2 that halves the size.
///
/// `padding` is 1 for one row and column of zeros on all sides, or 0 for one on the far sides only
/// (bottom and right).
pub(crate) fn conv3x3_halving(channels: usize, padding: usize, device: &Device) -> Conv2d {
    let [near, far] = if padding == 0 { [0, 1] } else { [padding; 2] };
    Conv2dConfig::new([channels, channels], [3, 3])
        .with_stride([2, 2])
        .with_padding(PaddingConfig2d::Explicit(near, near, far, far))
        .init(device)
}

/// A linear map of the channels at each position.
pub(crate) fn conv1x1(channels_in: usize, channels_out: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels_in, channels_out], [1, 1]).init(device)
}

/// `[batch, channels_in, height, width]` to `[batch, channels_out, height / stride, width / stride]`.
///
/// For the convolutions that are made here.
pub(crate) fn convolve(convolution: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let padding = match convolution.padding {
        PaddingConfig2d::Explicit(top, left, bottom, right) => Padding {
            top,
            bottom,
            left,
            right,
        },
        _ => Padding::default(),
    };
    let weight = convolution.weight.val();
    let bias = convolution.bias.as_ref().map(|bias| bias.val());
    conv2d(x, weight, bias, convolution.stride[0], padding)
}
