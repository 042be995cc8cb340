//! Group normalisation (Wu and He 2018), with the SiLU that nearly always follows it.

use burn::nn::{GroupNorm, GroupNormConfig};
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

/// `norm(x)` of `[batch, height, width, channels]`.
pub(crate) fn norm(norm: &GroupNorm) -> kiln_kernels::GroupNorm {
    // The normalisations made here have a scale and a shift.
    let values = |parameter: &Option<burn::module::Param<Tensor<1>>>| {
        parameter.as_ref().map(|parameter| parameter.val())
    };
    let beta = values(&norm.beta)
        .unwrap_or_else(|| Tensor::zeros([norm.num_channels], &Device::default()));
    kiln_kernels::GroupNorm {
        gamma: values(&norm.gamma).unwrap_or_else(|| beta.ones_like()),
        beta,
        groups: norm.num_groups,
        epsilon: norm.epsilon,
        silu: false,
    }
}

/// `silu(norm(x))` of `[batch, height, width, channels]`.
pub(crate) fn norm_silu(norm: &GroupNorm) -> kiln_kernels::GroupNorm {
    kiln_kernels::GroupNorm {
        silu: true,
        ..self::norm(norm)
    }
}
