//! Fused CPU operators, with gradients, for the networks of latent diffusion.
//!
//! Burn's Flex backend composes a group normalisation of nine passes over the data, most of them on one thread,
//! copies every image between two layouts around each convolution, and scatters a convolution's input gradient.
//! At the sizes of small latent diffusion models that is most of a training step. This crate has:
//!
//! - [`conv2d`]: convolution as matrix products, images kept `[batch, channels, height, width]`;
//! - [`group_norm`] and [`group_norm_silu`]: one pass forward, one back;
//! - [`AdamW`], [`moving_average`] and [`euclidean_norm`]: an update of the weights, in the memory that is there.
//!
//! # Which operators run
//!
//! Each function decides by where its tensors are: `f32` on Flex (with or without autodiff) takes the operators of
//! this crate; every other device and number format takes Burn's own. Models call one function and do not know.
//! Within this crate, vector instructions are chosen at run time: by `gemm` for matrix products (AVX-512, AVX2, NEON)
//! and by `pulp` for everything else (AVX-512, NEON; AVX2 needs pulp's feature `x86-v3`).
//!
//! On two cores with AVX-512 they make stage 1 of `configs/mnist-quick.toml` train about four times as fast, and stage
//! 2 about twice.
//!
//! # What is promised
//!
//! Results are the same bits from run to run, whatever the number of threads; and those of an image are the same
//! bits whatever the size of the batch that it is in.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kiln_kernels::{Padding, conv2d, group_norm_silu};
//!
//! let device = Device::flex();
//! let images = Tensor::<4>::random([2, 4, 8, 8], Distribution::Default, &device);
//! let weight = Tensor::<4>::random([6, 4, 3, 3], Distribution::Default, &device);
//!
//! let (gamma, beta) = (Tensor::ones([4], &device), Tensor::zeros([4], &device));
//! let hidden = group_norm_silu(images, gamma, beta, 2, 1e-6);
//! let halved = conv2d(hidden, weight, None, 2, Padding::uniform(1));
//! assert_eq!(halved.dims(), [2, 6, 4, 4]);
//! ```

#![recursion_limit = "256"]

mod convolution;
mod exponential;
mod extension;
mod normalisation;
mod optimizer;
mod product;
mod reduction;
mod scratch;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, activation};

use convolution::Geometry;
pub use convolution::Padding;
use extension::KernelOps;
use normalisation::{Activation, Groups};
pub use optimizer::{AdamW, euclidean_norm, moving_average};

/// Two-dimensional convolution (cross-correlation, as all deep learning libraries have it).
///
/// ```text
/// out[b, o, y, x] = bias[o] + sum over c, i, j of
///     weight[o, c, i, j] * input[b, c, stride y + i - top, stride x + j - left]
/// ```
///
/// with zeros outside the input. `input` is `[batch, channels_in, height, width]`, `weight`
/// `[channels_out, channels_in, kernel_height, kernel_width]`, `bias` `[channels_out]`; the result is
/// `[batch, channels_out, (height + top + bottom - kernel_height) / stride + 1, ..]`, rounded down.
///
/// # Panics
///
/// As Burn's `conv2d` does, if the shapes do not fit together.
pub fn conv2d(
    input: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: Padding,
) -> Tensor<4> {
    let ours = is_ours(&input) && is_ours(&weight) && bias.as_ref().is_none_or(is_ours);
    let (input_shape, weight_shape) = (input.dims(), weight.dims());
    let fits = input_shape[1] == weight_shape[1]
        && bias
            .as_ref()
            .is_none_or(|bias| bias.dims() == [weight_shape[0]])
        && input_shape
            .iter()
            .chain(&weight_shape)
            .all(|size| *size > 0);
    match Geometry::new(input_shape, weight_shape, stride, padding) {
        Some(geometry) if ours && fits => {
            let no_bias = || Tensor::zeros([geometry.channels_out], &input.device());
            let bias = bias.unwrap_or_else(no_bias);
            Tensor::from_dispatch(<Dispatch as KernelOps>::kiln_conv2d(
                input.into_dispatch(),
                weight.into_dispatch(),
                bias.into_dispatch(),
                geometry,
            ))
        }
        _ => {
            let rows = (padding.top, padding.bottom);
            let columns = (padding.left, padding.right);
            let options = ConvOptions::new_with_padding([stride; 2], [rows, columns], [1; 2], 1);
            module::conv2d(input, weight, bias, options)
        }
    }
}

/// Group normalisation (Wu and He 2018).
///
/// ```text
/// out = gamma (x - mean) / sqrt(variance + epsilon) + beta
/// ```
///
/// with mean and (biased) variance over the channels of a group and all positions of an image. `input` is
/// `[batch, channels, height, width]`, as is the result; `gamma` and `beta` are `[channels]`.
///
/// # Panics
///
/// If `groups` does not divide the channels, or `gamma` or `beta` have another length.
pub fn group_norm(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
) -> Tensor<4> {
    normalise(input, gamma, beta, groups, epsilon, Activation::Identity)
}

/// `z sigmoid(z)` (SiLU: Elfwing et al. 2017) of `z =` [`group_norm`]`(..)`, in the same pass.
///
/// # Panics
///
/// As [`group_norm`].
pub fn group_norm_silu(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
) -> Tensor<4> {
    normalise(input, gamma, beta, groups, epsilon, Activation::Silu)
}

fn normalise(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> Tensor<4> {
    let [batch, channels, height, width] = input.dims();
    assert!(
        groups > 0 && channels % groups == 0,
        "{channels} channels do not divide into {groups} groups: choose a number of groups that divides them."
    );
    assert!(
        gamma.dims() == [channels] && beta.dims() == [channels],
        "The scale and shift of a normalisation of {channels} channels must have that many values."
    );
    let ours = is_ours(&input) && is_ours(&gamma) && is_ours(&beta);
    if ours && batch * channels * height * width > 0 {
        let groups = Groups {
            channels,
            groups,
            positions: height * width,
            epsilon: epsilon as f32,
            activation,
        };
        return Tensor::from_dispatch(<Dispatch as KernelOps>::kiln_group_norm(
            input.into_dispatch(),
            gamma.into_dispatch(),
            beta.into_dispatch(),
            groups,
        ));
    }
    let grouped = input.reshape([batch, groups, channels / groups * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    let normalised: Tensor<4> =
        (centred / (variance + epsilon).sqrt()).reshape([batch, channels, height, width]);
    let scaled =
        normalised * gamma.reshape([1, channels, 1, 1]) + beta.reshape([1, channels, 1, 1]);
    match activation {
        Activation::Identity => scaled,
        Activation::Silu => activation::silu(scaled),
    }
}

/// Whether this crate's operators can read the tensor: `f32` on Flex.
fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_flex(&tensor.device())
}

fn is_flex(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}
