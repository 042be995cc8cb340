//! Halving and doubling an image's sides without weights.

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
