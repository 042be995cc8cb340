//! Halving and doubling an image's sides without weights, and the order of its channels.

use burn::tensor::Tensor;

/// `[batch, height, width, channels]` to `[batch, height / 2, width / 2, channels]`.
pub(crate) fn average_2x2(x: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (height, width) = (height / 2, width / 2);
    let x = x.slice([0..batch, 0..2 * height, 0..2 * width, 0..channels]);
    let blocks: Tensor<6> = x.reshape([batch, height, 2, width, 2, channels]);
    blocks
        .mean_dim(2)
        .mean_dim(4)
        .reshape([batch, height, width, channels])
}

/// `[batch, height, width, channels]` to `[batch, 2 height, 2 width, channels]`.
pub(crate) fn repeat_2x2(x: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let pixels: Tensor<6> = x.reshape([batch, height, 1, width, 1, channels]);
    pixels
        .expand([batch, height, 2, width, 2, channels])
        .reshape([batch, 2 * height, 2 * width, channels])
}

/// `[batch, height, width, channels]` to `[batch, channels, height, width]`.
///
/// One channel keeps its place in memory, so nothing needs to be permuted. And it must not be: on GPUs, Burn 0.22 takes
/// the wrong numbers when it reduces a tensor that owes its order to a dimension of one element.
pub(crate) fn channels_first(x: Tensor<4>) -> Tensor<4> {
    match x.dims() {
        [batch, height, width, 1] => x.reshape([batch, 1, height, width]),
        _ => x.permute([0, 3, 1, 2]),
    }
}
