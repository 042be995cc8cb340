//! The distance of two feature maps.

use burn::tensor::Tensor;

/// The distance of each image, `[batch]`: features `[batch, height, width, channels]` are divided by the norm of their
/// position, and their squared differences are weighted by `weights`, `[channels, 1]`, summed over channels and averaged
/// over positions.
///
/// ```text
/// sum over c of w_c (f_c / |f| - g_c / |g|)²,  |f| = sqrt(sum of f_c² + smallest²)
/// ```
pub(super) fn distances(
    maps: Tensor<4>,
    others: Tensor<4>,
    weights: Tensor<2>,
    smallest: f64,
) -> Tensor<1> {
    let [batch, height, width, channels] = maps.dims();
    let difference = unit(maps, smallest) - unit(others, smallest);
    let squares: Tensor<2> =
        (difference.clone() * difference).reshape([batch * height * width, channels]);
    let positions: Tensor<2> = squares.matmul(weights).reshape([batch, height * width]);
    positions.mean_dim(1).squeeze_dim(1)
}

/// Features of unit length at each position. `smallest` keeps the gradient finite where all of them are 0.
fn unit(maps: Tensor<4>, smallest: f64) -> Tensor<4> {
    let squares = (maps.clone() * maps.clone()).sum_dim(3);
    maps / (squares + smallest * smallest).sqrt()
}
