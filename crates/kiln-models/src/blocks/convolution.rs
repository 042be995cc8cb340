//! The convolutions of both networks.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use kiln_kernels::{
    Convolution, Images, Padding, Sampling, can_stay_stored, is_cpu, matmul, pointwise_weight,
};

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

/// `[batch, height, width, channels_in]` to `[batch, height / stride, width / stride, channels_out]`, to be completed
/// by the operations around it.
///
/// Only for convolutions that this file makes.
pub(crate) fn convolution(layer: &Conv2d, x: impl Into<Images>) -> Convolution {
    let padding = match layer.padding {
        PaddingConfig2d::Explicit(top, left, bottom, right) => Padding {
            top,
            bottom,
            left,
            right,
        },
        _ => Padding::default(),
    };
    let stride = layer.stride[0];
    sampled(layer, x, Sampling::Strided { stride, padding })
}

/// Every pixel repeated 2x2, then a 3x3 convolution: `[batch, height, width, channels_in]` to
/// `[batch, 2 height, 2 width, channels_out]`.
pub(crate) fn doubling_convolution(layer: &Conv2d, x: Tensor<4>) -> Convolution {
    sampled(layer, x, Sampling::Doubled)
}

fn sampled(layer: &Conv2d, x: impl Into<Images>, sampling: Sampling) -> Convolution {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    Convolution::new(x, layer.weight.val(), sampling).plus_bias(bias)
}

/// Linear layers of every pixel, their outputs side by side.
pub(crate) fn pointwise(layers: &[&Linear], x: Tensor<4>) -> Convolution {
    let weights = layers.iter().map(|layer| layer.weight.val());
    let weight = pointwise_weight(weights.collect());
    let biases: Option<Vec<_>> = layers
        .iter()
        .map(|layer| layer.bias.as_ref().map(|bias| bias.val()))
        .collect();
    let sampling = Sampling::Strided {
        stride: 1,
        padding: Padding::default(),
    };
    let bias = biases.map(|mut biases| match biases.len() {
        1 => biases.remove(0),
        _ => Tensor::cat(biases, 0),
    });
    Convolution::new(x, weight, sampling).plus_bias(bias)
}

/// `[batch, channels_in]` to `[batch, channels_out]`.
pub(crate) fn linear(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    let weight = layer.weight.val();
    let device = weight.device();
    if can_stay_stored(&device) {
        // Images of one pixel: the weight need not stay in memory as it was stored.
        let [batch, channels] = x.dims();
        let output = pointwise(&[layer], x.reshape([batch, 1, 1, channels])).forward();
        let [_, _, _, channels] = output.dims();
        return output.reshape([batch, channels]);
    }
    if is_cpu(&device) {
        return layer.forward(x);
    }
    // On a GPU, a product with a fixed kernel.
    let output = matmul(x, weight);
    match &layer.bias {
        Some(bias) => output + bias.val().unsqueeze(),
        None => output,
    }
}
