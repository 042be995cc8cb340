//! Group normalisation (Wu and He 2018), with the SiLU that nearly always follows it.

use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

/// A group normalisation of `channels` in `groups`, scaled by ones and shifted by zeros.
pub(crate) fn group_norm(
    groups: usize,
    channels: usize,
    epsilon: f64,
    device: &Device,
) -> GroupNorm {
    GroupNormConfig::new(groups, channels)
        .with_epsilon(epsilon)
        .init(device)
}

/// `norm(x)` of `[batch, channels, height, width]`.
pub(crate) fn norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) => {
            kiln_kernels::group_norm(x, gamma.val(), beta.val(), norm.num_groups, norm.epsilon)
        }
        _ => norm.forward(x),
    }
}

/// `silu(norm(x))` of `[batch, channels, height, width]`.
pub(crate) fn norm_silu(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) => {
            kiln_kernels::group_norm_silu(x, gamma.val(), beta.val(), norm.num_groups, norm.epsilon)
        }
        _ => silu(norm.forward(x)),
    }
}
