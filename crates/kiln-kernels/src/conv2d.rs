//! The convolution that models call.

use burn::backend::Dispatch;
use burn::tensor::module::{self, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};

use crate::beside::Images;
use crate::convolution::{Geometry, Sampling};
use crate::extension::{ConvolutionOps, Options};
use crate::group_norm::GroupNorm;
use crate::precision;
use crate::{is_ours, is_ours_without_gradient};

/// A two-dimensional convolution of channels-last images, with the operations around it in the networks.
///
/// ```text
/// out[b, y, x, o] = bias[o] + per_image[b, o] + shortcut[b, y, x, o]
///                 + sum over i, j, c of weight[o, c, i, j] * f(input)[b, stride y + i - top, stride x + j - left, c]
/// ```
///
/// with zeros outside the image. `f` is a group normalisation with or without SiLU, or the identity; with
/// [`Sampling::Doubled`] every pixel of `f(input)` is repeated 2x2 first.
///
/// It is one operator, because only the sum is worth a pass over the data, and because a training step then keeps only
/// `input`: the backward pass computes `f(input)` again.
#[derive(Clone, Debug)]
pub struct Convolution {
    input: Images,
    weight: Tensor<4>,
    sampling: Sampling,
    norm: Option<GroupNorm>,
    bias: Option<Tensor<1>>,
    per_image: Option<Tensor<2>>,
    shortcut: Option<Tensor<4>>,
}

impl Convolution {
    /// Of `input`, `[batch, height, width, channels_in]`, by `weight`,
    /// `[channels_out, channels_in, kernel_height, kernel_width]`.
    pub fn new(input: impl Into<Images>, weight: Tensor<4>, sampling: Sampling) -> Self {
        Self {
            input: input.into(),
            weight,
            sampling,
            norm: None,
            bias: None,
            per_image: None,
            shortcut: None,
        }
    }

    /// The input is normalised first.
    pub fn after(mut self, norm: GroupNorm) -> Self {
        self.norm = Some(norm);
        self
    }

    /// Adds `[channels_out]` to every position.
    pub fn plus_bias(mut self, bias: Option<Tensor<1>>) -> Self {
        self.bias = bias;
        self
    }

    /// Adds `[batch, channels_out]` to every position of the image.
    pub fn plus_per_image(mut self, per_image: Option<Tensor<2>>) -> Self {
        self.per_image = per_image;
        self
    }

    /// Adds an image of the output's shape.
    pub fn plus_shortcut(mut self, shortcut: Tensor<4>) -> Self {
        self.shortcut = Some(shortcut);
        self
    }

    /// The result, `[batch, height_out, width_out, channels_out]`.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit together.
    pub fn forward(self) -> Tensor<4> {
        let (input, weight) = (self.input.dims(), self.weight.dims());
        let Some(geometry) = Geometry::new(input, weight, self.sampling, precision::current())
        else {
            panic!(
                "A kernel {weight:?} (outputs, inputs, rows, columns) does not fit images {input:?} \
                 (batch, rows, columns, channels) under {:?}.",
                self.sampling
            );
        };
        self.assert_shapes(&geometry);
        if !self.is_ours() {
            return self.with_burns_operators(geometry.size_out);
        }
        let options = Options {
            geometry,
            groups: self.norm.as_ref().map(GroupNorm::options),
        };
        let device = self.weight.device();
        let (input, second) = match self.input {
            Images::Beside(first, second) if is_ours_without_gradient(&self.weight) => {
                (first, Some(second))
            }
            input => (input.joined(), None),
        };
        let (gamma, beta) = match self.norm {
            Some(norm) => (Some(norm.gamma), Some(norm.beta)),
            None => (None, None),
        };
        Tensor::from_dispatch(<Dispatch as ConvolutionOps>::kiln_convolution(
            input.into_dispatch(),
            or_nothing(second, &device).into_dispatch(),
            self.weight.into_dispatch(),
            or_nothing(gamma, &device).into_dispatch(),
            or_nothing(beta, &device).into_dispatch(),
            or_nothing(self.bias, &device).into_dispatch(),
            or_nothing(self.per_image, &device).into_dispatch(),
            or_nothing(self.shortcut, &device).into_dispatch(),
            options,
        ))
    }

    fn assert_shapes(&self, geometry: &Geometry) {
        let [batch, ..] = self.input.dims();
        let [height, width] = geometry.size_out;
        let channels = geometry.channels_out;
        if let Some(norm) = &self.norm {
            norm.assert_channels(geometry.channels_in);
        }
        if let Some(bias) = &self.bias {
            assert_eq!(bias.dims(), [channels], "shape of the bias");
        }
        if let Some(per_image) = &self.per_image {
            assert_eq!(
                per_image.dims(),
                [batch, channels],
                "shape of what is added to each image"
            );
        }
        if let Some(shortcut) = &self.shortcut {
            assert_eq!(
                shortcut.dims(),
                [batch, height, width, channels],
                "shape of the shortcut"
            );
        }
    }

    fn is_ours(&self) -> bool {
        self.input.is_ours()
            && is_ours(&self.weight)
            && self.norm.as_ref().is_none_or(GroupNorm::is_ours)
            && self.bias.as_ref().is_none_or(is_ours)
            && self.per_image.as_ref().is_none_or(is_ours)
            && self.shortcut.as_ref().is_none_or(is_ours)
    }

    fn with_burns_operators(self, size_out: [usize; 2]) -> Tensor<4> {
        let input = match &self.norm {
            Some(norm) => norm.clone().forward(self.input.joined()),
            None => self.input.joined(),
        };
        let (input, burns) = as_burn_calls_it(input, self.sampling);
        let added = (self.bias, self.per_image, self.shortcut);
        #[cfg(feature = "gpu")]
        if crate::gpu::has(&input) && input.dims()[0] > 0 {
            return on_gpu(input, self.weight, added, burns, size_out);
        }
        let _ = size_out;
        let (bias, per_image, shortcut) = added;
        let mut output = if burns.stride == [1, 1] && self.weight.dims()[2..] == [1, 1] {
            product(input, self.weight)
        } else {
            by_burn(input, self.weight, burns)
        };
        if let Some(bias) = bias {
            let [channels] = bias.dims();
            output = output + bias.reshape([1, 1, 1, channels]);
        }
        if let Some(per_image) = per_image {
            let [batch, channels] = per_image.dims();
            output = output + per_image.reshape([batch, 1, 1, channels]);
        }
        match shortcut {
            Some(shortcut) => output + shortcut,
            None => output,
        }
    }
}

/// The input, channels-last, and the options of Burn's convolution of it.
fn as_burn_calls_it(input: Tensor<4>, sampling: Sampling) -> (Tensor<4>, ConvOptions<2>) {
    match sampling {
        Sampling::Strided { stride, padding } => {
            let rows = (padding.top, padding.bottom);
            let columns = (padding.left, padding.right);
            let options = ConvOptions::new_with_padding([stride; 2], [rows, columns], [1; 2], 1);
            (input, options)
        }
        Sampling::Doubled => {
            let [_, height, width, _] = input.dims();
            let options = InterpolateOptions::new(InterpolateMode::Nearest)
                .with_align_corners(false)
                .with_output_size([2 * height, 2 * width]);
            let input = interpolate(input.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1]);
            let options = ConvOptions::new_with_padding([1; 2], [(1, 1); 2], [1; 2], 1);
            (input, options)
        }
    }
}

#[cfg(feature = "gpu")]
fn on_gpu(
    input: Tensor<4>,
    weight: Tensor<4>,
    (bias, per_image, shortcut): (Option<Tensor<1>>, Option<Tensor<2>>, Option<Tensor<4>>),
    burns: ConvOptions<2>,
    size_out: [usize; 2],
) -> Tensor<4> {
    use crate::gpu::convolution::{PlainConvolutionOps, PlainOptions};
    let options = PlainOptions {
        burns,
        precision: precision::requested(),
        size_out,
        added: [bias.is_some(), per_image.is_some(), shortcut.is_some()],
    };
    let device = weight.device();
    Tensor::from_dispatch(<Dispatch as PlainConvolutionOps>::kiln_plain_convolution(
        input.into_dispatch(),
        weight.into_dispatch(),
        or_nothing(bias, &device).into_dispatch(),
        or_nothing(per_image, &device).into_dispatch(),
        or_nothing(shortcut, &device).into_dispatch(),
        options,
    ))
}

fn by_burn(input: Tensor<4>, weight: Tensor<4>, options: ConvOptions<2>) -> Tensor<4> {
    module::conv2d(input.permute([0, 3, 1, 2]), weight, None, options).permute([0, 2, 3, 1])
}

/// A convolution with one pixel's kernel, which is a product of matrices.
fn product(input: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels_in] = input.dims();
    let [channels_out, ..] = weight.dims();
    let pixels: Tensor<2> = input.reshape([batch * height * width, channels_in]);
    let weight: Tensor<2> = weight.reshape([channels_out, channels_in]);
    let output = pixels.matmul(weight.transpose());
    output.reshape([batch, height, width, channels_out])
}

/// Represents a missing tensor for an operator.
fn or_nothing<const D: usize>(tensor: Option<Tensor<D>>, device: &Device) -> Tensor<D> {
    tensor.unwrap_or_else(|| Tensor::empty([0; D], device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;
    use burn::tensor::Device;

    #[test]
    #[should_panic(expected = "does not fit images [1, 4, 4, 3]")]
    fn channels_that_do_not_fit_are_refused() {
        let device = Device::flex();
        let sampling = Sampling::Strided {
            stride: 1,
            padding: Padding::default(),
        };
        let (input, weight) = (
            Tensor::zeros([1, 4, 4, 3], &device),
            Tensor::zeros([2, 4, 1, 1], &device),
        );
        let _ = Convolution::new(input, weight, sampling).forward();
    }
}
