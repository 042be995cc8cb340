//! The largest numbers of squares of a feature map.

use burn::backend::Dispatch;
use burn::nn::pool::MaxPool2dConfig;
use burn::tensor::Tensor;

use crate::extension::MaxPoolOps;
use crate::is_ours;
use crate::pooling::Pool;

/// The maxima of squares of `side` x `side` pixels of `[batch, height, width, channels]`, at every second row and column:
/// `[batch, height_out, width_out, channels]`.
///
/// Squares lie within the image. With `over_the_edge` the last ones may be cut off by the edge (PyTorch's `ceil_mode`).
/// The gradient of a square goes to the first of its largest numbers.
///
/// # Panics
/// If the image is smaller than a square, or than 1x1 with `over_the_edge`.
pub fn halving_max_pool(maps: Tensor<4>, side: usize, over_the_edge: bool) -> Tensor<4> {
    if !is_ours(&maps) {
        return with_burns_operators(maps, side, over_the_edge);
    }
    let [_, height, width, channels] = maps.dims();
    let outputs = |size: usize| match over_the_edge {
        true => size.saturating_sub(side).div_ceil(2) + 1,
        false => size.checked_sub(side).map_or(0, |rest| rest / 2 + 1),
    };
    let pool = Pool {
        size_in: [height, width],
        size_out: [outputs(height), outputs(width)],
        channels,
        side,
    };
    assert!(
        maps.shape().num_elements() > 0 && !pool.size_out.contains(&0),
        "squares of {side}x{side} do not fit into images of {height}x{width}"
    );
    Tensor::from_dispatch(<Dispatch as MaxPoolOps>::kiln_max_pool(
        maps.into_dispatch(),
        pool,
    ))
}

fn with_burns_operators(maps: Tensor<4>, side: usize, over_the_edge: bool) -> Tensor<4> {
    let pool = MaxPool2dConfig::new([side; 2])
        .with_strides([2, 2])
        .with_ceil_mode(over_the_edge)
        .init();
    pool.forward(maps.permute([0, 3, 1, 2]))
        .permute([0, 2, 3, 1])
}
