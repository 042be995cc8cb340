//! The layers of the network.

use burn::nn::PaddingConfig2d;
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_kernels::{Convolution, Padding, Sampling};

/// How far a kernel extends over the image's edge, and where it is applied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// At every place, with zeros around the image that keep its size.
    Same,
    /// At every place within the image.
    Valid,
    /// At every second of these places.
    Halving,
}

/// A kernel with its normalisation folded in, from which a layer is made.
pub(super) struct Folded {
    /// `[channels_out, channels_in, kernel_height, kernel_width]`
    pub(super) shape: [usize; 4],
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// A convolution and ReLU.
pub(super) struct Layer {
    weight: Tensor<4>,
    bias: Tensor<1>,
    sampling: Sampling,
}

impl Layer {
    pub(super) fn new(folded: Folded, reach: Reach, device: &Device) -> Self {
        let Folded {
            shape,
            weight,
            bias,
        } = folded;
        let [channels, _, height, width] = shape;
        let padding = match reach {
            Reach::Same => Padding {
                top: height / 2,
                bottom: height / 2,
                left: width / 2,
                right: width / 2,
            },
            Reach::Valid | Reach::Halving => Padding::default(),
        };
        let stride = if reach == Reach::Halving { 2 } else { 1 };
        Self {
            weight: Tensor::from_data(TensorData::new(weight, shape), device),
            bias: Tensor::from_data(TensorData::new(bias, [channels]), device),
            sampling: Sampling::Strided { stride, padding },
        }
    }

    pub(super) fn forward(&self, maps: Tensor<4>) -> Tensor<4> {
        let convolution = Convolution::new(maps, self.weight.clone(), self.sampling);
        relu(convolution.plus_bias(Some(self.bias.clone())).forward())
    }
}

/// A pool of 3x3.
#[derive(Clone, Copy)]
pub(super) enum Pool {
    /// Means at every place, over the pixels within the image.
    Average,
    /// Maxima at every place.
    Maximum,
    /// Maxima at every second place where the square lies within the image.
    HalvingMaximum,
}

impl Pool {
    /// Takes and returns `[batch, height, width, channels]`, and uses Burn's layout in between.
    pub(super) fn forward(self, maps: Tensor<4>) -> Tensor<4> {
        let maps = maps.permute([0, 3, 1, 2]);
        let border = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let pooled = match self {
            Self::Average => AvgPool2dConfig::new([3, 3])
                .with_strides([1, 1])
                .with_padding(border)
                .with_count_include_pad(false)
                .init()
                .forward(maps),
            Self::Maximum => MaxPool2dConfig::new([3, 3])
                .with_strides([1, 1])
                .with_padding(border)
                .init()
                .forward(maps),
            Self::HalvingMaximum => MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .init()
                .forward(maps),
        };
        pooled.permute([0, 2, 3, 1])
    }
}
