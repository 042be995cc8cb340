//! The distance of feature maps whose positions are brought to unit length: the end of every perceptual network.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::extension::UnitDistanceOps;
use crate::is_ours;

/// The distance of each image, `[batch]`, between two feature maps `[batch, height, width, channels]`.
///
/// Each position is divided by its norm; the squared differences are weighted by `weights`, `[channels]`, summed over
/// channels and averaged over positions (Zhang et al. 2018, equation 1):
///
/// ```text
/// mean over positions of  sum over c of w_c (f_c / |f| - g_c / |g|)²,  |f| = sqrt(sum of f_c² + smallest²)
/// ```
///
/// `smallest` keeps the gradient finite where all features are 0. The weights get no gradient.
///
/// # Panics
/// If the shapes do not fit together.
pub fn unit_distance(
    maps: Tensor<4>,
    others: Tensor<4>,
    weights: Tensor<1>,
    smallest: f32,
) -> Tensor<1> {
    let [.., channels] = maps.dims();
    assert_eq!(maps.dims(), others.dims(), "shapes of the feature maps");
    assert_eq!(weights.dims(), [channels], "shape of the weights");
    if is_ours(&maps) && is_ours(&others) && is_ours(&weights) && maps.shape().num_elements() > 0 {
        return Tensor::from_dispatch(<Dispatch as UnitDistanceOps>::kiln_unit_distance(
            maps.into_dispatch(),
            others.into_dispatch(),
            weights.into_dispatch(),
            smallest,
        ));
    }
    with_burns_operators(maps, others, weights, smallest)
}

fn with_burns_operators(
    maps: Tensor<4>,
    others: Tensor<4>,
    weights: Tensor<1>,
    smallest: f32,
) -> Tensor<1> {
    let unit = |maps: Tensor<4>| {
        let squares = (maps.clone() * maps.clone()).sum_dim(3);
        maps / (squares + smallest * smallest).sqrt()
    };
    let [batch, height, width, channels] = maps.dims();
    let difference = unit(maps) - unit(others);
    let squares: Tensor<2> =
        (difference.clone() * difference).reshape([batch * height * width, channels]);
    let positions: Tensor<2> = squares.matmul(weights.reshape([channels, 1]));
    let positions: Tensor<2> = positions.reshape([batch, height * width]);
    positions.mean_dim(1).squeeze_dim(1)
}
