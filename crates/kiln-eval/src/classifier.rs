//! A small convolutional network that reads digits, to judge drawn ones.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};
use kiln_kernels::{Convolution, Padding, Sampling};
use kiln_models::{WeightsError, initialization};

/// Channels and stride of each 3x3 convolution: 28x28 pixels become 28, 14, 14, 7, 7, 4.
const CONVOLUTIONS: [(usize, usize); 6] = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 2)];
/// Side of the last feature maps.
const LAST_SIDE: usize = 4;
const GROUPS: usize = 8;
const EPSILON: f64 = 1e-5;

/// A classifier of gray 28x28 digits.
///
/// ```text
/// x        = conv(image)
/// x        = conv(silu(norm(x)))                     five times; three of the six convolutions halve the sides
/// features = silu(linear(flatten(silu(norm(x)))))    128 numbers
/// logits   = linear(features)                        one for each digit
/// ```
///
/// It has group normalisation instead of batch normalisation, so that an image's result does not depend on the other
/// images of its batch. `kiln train-classifier` trains it.
#[derive(Module, Debug)]
pub struct DigitClassifier {
    convolutions: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
    embed: Linear,
    classify: Linear,
}

/// The classifier's output for a batch of images.
#[derive(Clone, Debug)]
pub struct Classified {
    /// The layer before the last, `[batch, 128]`: the features for distances between sets of digits.
    pub features: Tensor<2>,
    /// Unnormalised log-probabilities of the ten digits, `[batch, 10]`.
    pub logits: Tensor<2>,
}

impl DigitClassifier {
    /// The weights that ship with kiln, a safetensors file.
    pub const BUILT_IN: &[u8] = include_bytes!("../pretrained/mnist-classifier.safetensors");
    /// Rows and columns of the images that it reads.
    pub const SIDE: usize = 28;
    /// The number of digits.
    pub const CLASSES: usize = 10;
    /// Length of an image's features.
    pub const FEATURES: usize = 128;

    /// An untrained classifier, whose weights are drawn from `seed`.
    pub fn new(device: &Device, seed: u64) -> Self {
        let channels_in = [1]
            .into_iter()
            .chain(CONVOLUTIONS.map(|(channels, _)| channels));
        let convolutions =
            channels_in
                .zip(CONVOLUTIONS)
                .map(|(channels_in, (channels, stride))| {
                    Conv2dConfig::new([channels_in, channels], [3, 3])
                        .with_stride([stride; 2])
                        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                        .init(device)
                });
        let norms = CONVOLUTIONS.map(|(channels, _)| {
            GroupNormConfig::new(GROUPS, channels)
                .with_epsilon(EPSILON)
                .init(device)
        });
        let [.., (last_channels, _)] = CONVOLUTIONS;
        let flat = LAST_SIDE * LAST_SIDE * last_channels;
        let classifier = Self {
            convolutions: convolutions.collect(),
            norms: norms.into(),
            embed: LinearConfig::new(flat, Self::FEATURES).init(device),
            classify: LinearConfig::new(Self::FEATURES, Self::CLASSES).init(device),
        };
        initialization::seeded(classifier, seed)
    }

    /// Loads the weights of a trained classifier from the bytes of a safetensors file.
    ///
    /// # Errors
    /// Those of [`kiln_models::load_weights_from_bytes`]: bytes that are damaged or hold another network.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, WeightsError> {
        kiln_models::load_weights_from_bytes(Self::new(device, 0), bytes)
    }

    /// Reads digits, `[batch, 1, 28, 28]` in [-1, 1], white on black.
    ///
    /// # Panics
    /// If the images have another shape.
    pub fn forward(&self, images: Tensor<4>) -> Classified {
        let [batch, ..] = images.dims();
        assert_eq!(
            images.dims(),
            [batch, 1, Self::SIDE, Self::SIDE],
            "shape of the digits"
        );
        // One channel: both layouts have the same numbers in the same order.
        let mut x = images.reshape([batch, Self::SIDE, Self::SIDE, 1]);
        let mut norm: Option<&GroupNorm> = None;
        for (layer, next_norm) in self.convolutions.iter().zip(&self.norms) {
            let convolution = convolution(layer, x);
            x = match norm {
                Some(norm) => convolution.after(norm_silu(norm)).forward(),
                None => convolution.forward(),
            };
            norm = Some(next_norm);
        }
        if let Some(norm) = norm {
            x = norm_silu(norm).forward(x);
        }
        let features = silu(self.embed.forward(x.reshape([batch as i32, -1])));
        Classified {
            logits: self.classify.forward(features.clone()),
            features,
        }
    }
}

/// `layer` of channels-last images.
fn convolution(layer: &Conv2d, x: Tensor<4>) -> Convolution {
    let sampling = Sampling::Strided {
        stride: layer.stride[0],
        padding: Padding::uniform(1),
    };
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    Convolution::new(x, layer.weight.val(), sampling).plus_bias(bias)
}

/// `silu(norm(x))` of channels-last images.
pub(crate) fn norm_silu(norm: &GroupNorm) -> kiln_kernels::GroupNorm {
    let ones = || Tensor::ones([norm.num_channels], &Device::default());
    kiln_kernels::GroupNorm {
        gamma: norm.gamma.as_ref().map_or_else(ones, |gamma| gamma.val()),
        beta: norm
            .beta
            .as_ref()
            .map_or_else(|| ones() * 0.0, |beta| beta.val()),
        groups: norm.num_groups,
        epsilon: norm.epsilon,
        silu: true,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn an_image_is_read_the_same_alone_and_in_a_batch() {
        let device = Device::flex();
        let classifier = DigitClassifier::new(&device, 3);
        let images = Tensor::<4>::random([3, 1, 28, 28], Distribution::Uniform(-1.0, 1.0), &device);
        let together = classifier.forward(images.clone());
        assert_eq!(together.features.dims(), [3, DigitClassifier::FEATURES]);
        assert_eq!(together.logits.dims(), [3, DigitClassifier::CLASSES]);
        let alone = classifier.forward(images.narrow(0, 1, 1));
        // The order of sums in Burn's matrix products may depend on the number of rows.
        let difference = alone.logits - together.logits.narrow(0, 1, 1);
        assert!(difference.abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn weights_are_a_function_of_the_seed() {
        let device = Device::flex();
        let image = Tensor::<4>::ones([1, 1, 28, 28], &device);
        let read = |seed| {
            DigitClassifier::new(&device, seed)
                .forward(image.clone())
                .logits
                .into_data()
        };
        assert_eq!(read(1), read(1));
        assert_ne!(read(1), read(2));
    }
}
