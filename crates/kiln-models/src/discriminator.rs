//! The discriminator that judges a first stage's reconstructions.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::blocks::{convolution, group_norm, norm};
use crate::config::require;
use crate::feature_maps::FeatureMaps;
use crate::initialization::seeded;

/// The slope of LeakyReLU below zero, as in pix2pix.
const SLOPE: f64 = 0.2;
const EPSILON: f64 = 1e-5;
/// The side of the kernels.
const KERNEL: usize = 4;
/// Layers are at most this many times as wide as the first one.
const WIDEST: usize = 8;
/// Channels in a group of a normalisation.
const GROUP: usize = 8;

/// The shape of a [`Discriminator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorConfig {
    /// Channels of the first layer: a multiple of 8; default 32. Each further layer has twice as many, up to 8 times.
    pub channels: usize,
    /// Layers that halve the image, from 1 to 6; default 2. With 2 a logit sees 34x34 pixels, with 3 it sees 70x70.
    pub layers: usize,
}

impl Default for DiscriminatorConfig {
    fn default() -> Self {
        Self {
            channels: 32,
            layers: 2,
        }
    }
}

/// A network that tells real images from reconstructions, patch by patch: PatchGAN (Isola et al. 2017).
///
/// Layers of 4x4 convolutions with LeakyReLU: some of stride 2, then one of stride 1, then one that gives a logit for
/// each patch. Between them stand group normalisations instead of the paper's batch normalisations, so that an image's
/// logits depend on this image only, and any number of devices computes the same.
#[derive(Module, Debug)]
pub struct Discriminator {
    first: Conv2d,
    layers: Vec<NormalisedLayer>,
    last: Conv2d,
}

/// A convolution without bias, and its normalisation.
#[derive(Module, Debug)]
struct NormalisedLayer {
    convolution: Conv2d,
    norm: GroupNorm,
}

/// A discriminator's view of images.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// `[batch, rows, columns]`: above zero where a patch looks real.
    pub logits: Tensor<3>,
    /// The activations of each layer but the last, `[batch, height, width, channels]`.
    pub features: Vec<Tensor<4>>,
}

impl DiscriminatorConfig {
    /// Checks the shape for images of this side.
    ///
    /// # Errors
    /// Names the first option that does not fit, and what would be valid.
    pub fn validate(&self, side: usize) -> Result<(), ConfigError> {
        let (channels, layers) = (self.channels, self.layers);
        require(
            channels.is_multiple_of(GROUP) && (GROUP..=1024).contains(&channels),
            "channels",
            channels,
            &format!("it must be a multiple of {GROUP}, at most 1024, such as 32"),
        )?;
        require(
            (1..=6).contains(&layers),
            "layers",
            layers,
            "it must lie between 1 and 6; 2 suits images of 64x64, 3 those of 256x256",
        )?;
        // Each of the two layers of stride 1 takes a row and a column.
        require(
            side >> layers > 2,
            "layers",
            layers,
            &format!("images of {side}x{side} would leave no patch: use fewer"),
        )
    }

    /// A new discriminator of images with this many channels, with PyTorch's initial weights, drawn from `seed`.
    pub fn init(&self, image_channels: usize, device: &Device, seed: u64) -> Discriminator {
        let convolution = |channels_in, channels_out, stride, bias| {
            Conv2dConfig::new([channels_in, channels_out], [KERNEL; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(bias)
                .init(device)
        };
        let widths = self.widths();
        let layers = widths.windows(2).enumerate().map(|(index, widths)| {
            let stride = if index + 1 < self.layers { 2 } else { 1 };
            let width = widths[1];
            NormalisedLayer {
                convolution: convolution(widths[0], width, stride, false),
                norm: group_norm(width / GROUP, width, EPSILON, device),
            }
        });
        let discriminator = Discriminator {
            first: convolution(image_channels, self.channels, 2, true),
            layers: layers.collect(),
            last: convolution(widths[self.layers], 1, 1, true),
        };
        seeded(discriminator, seed)
    }

    /// The channels of each layer but the last.
    fn widths(&self) -> Vec<usize> {
        let width = |layer: usize| self.channels * (1 << layer).min(WIDEST);
        (0..=self.layers).map(width).collect()
    }

    /// The number of the network's weights.
    pub fn num_weights(&self, image_channels: usize) -> usize {
        let patch = KERNEL * KERNEL;
        let widths = self.widths();
        let layer = |widths: &[usize]| (patch * widths[0] + 2) * widths[1];
        let layers: usize = widths.windows(2).map(layer).sum();
        (patch * image_channels + 1) * self.channels + layers + patch * widths[self.layers] + 1
    }

    /// The numbers that training keeps for an image of this side in one pass through the discriminator: the inputs of
    /// its convolutions, normalisations and activations.
    pub fn numbers(&self, image_channels: usize, side: usize) -> f64 {
        let kept = self.widths().into_iter().enumerate().map(|(layer, width)| {
            let halvings = (layer + 1).min(self.layers);
            (3 * width * (side >> halvings).pow(2)) as f64
        });
        (image_channels * side * side) as f64 + kept.sum::<f64>()
    }
}

impl Discriminator {
    /// The logits of images `[batch, channels, height, width]` in [-1, 1].
    pub fn forward(&self, images: Tensor<4>) -> Judgement {
        let active = |hidden| leaky_relu(hidden, SLOPE);
        let hidden = convolution(&self.first, images.permute([0, 2, 3, 1]));
        let mut features = vec![active(hidden.forward())];
        for layer in &self.layers {
            let hidden = convolution(&layer.convolution, features[features.len() - 1].clone());
            let normalised = norm(&layer.norm).forward(hidden.forward());
            features.push(active(normalised));
        }
        let last = convolution(&self.last, features[features.len() - 1].clone());
        Judgement {
            logits: last.forward().squeeze_dim(3),
            features,
        }
    }
}

impl FeatureMaps {
    /// With a discriminator in training beside the network: its passes over the images, over the reconstructions, and
    /// over the reconstructions again for the network's own gradient.
    pub fn with_discriminator(
        self,
        discriminator: &DiscriminatorConfig,
        image_channels: usize,
        side: usize,
    ) -> Self {
        Self {
            training: self.training + 3.0 * discriminator.numbers(image_channels, side),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn images(count: usize, side: usize) -> Tensor<4> {
        let device = Device::flex();
        Tensor::random(
            [count, 3, side, side],
            Distribution::Uniform(-1.0, 1.0),
            &device,
        )
    }

    #[test]
    fn each_patch_has_a_logit() {
        for (layers, side, patches) in [(2, 64, 14), (3, 64, 6), (2, 32, 6), (1, 16, 6)] {
            let config = DiscriminatorConfig {
                channels: 8,
                layers,
            };
            config.validate(side).unwrap();
            let discriminator = config.init(3, &Device::flex(), 0);
            let judgement = discriminator.forward(images(2, side));
            assert_eq!(judgement.logits.dims(), [2, patches, patches]);
            assert_eq!(judgement.features.len(), layers + 1);
            assert_eq!(discriminator.num_params(), config.num_weights(3));
        }
    }

    #[test]
    fn an_image_is_judged_alone() {
        let discriminator = DiscriminatorConfig::default().init(3, &Device::flex(), 0);
        let images = images(3, 32);
        let together = discriminator.forward(images.clone()).logits;
        let alone = discriminator.forward(images.narrow(0, 1, 1)).logits;
        let difference = (together.narrow(0, 1, 1) - alone).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn shapes_that_cannot_be_are_refused_by_key() {
        for (channels, layers, side, key) in [
            (12, 2, 64, "channels"),
            (0, 2, 64, "channels"),
            (32, 0, 64, "layers"),
            (32, 4, 32, "layers"),
        ] {
            let config = DiscriminatorConfig { channels, layers };
            let error = config.validate(side).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    /// As the first stage's own gradient needs it.
    #[test]
    fn a_frozen_discriminator_passes_gradients_to_its_images() {
        let discriminator = DiscriminatorConfig::default().init(3, &Device::flex(), 0);
        let images = images(2, 32).autodiff().require_grad();
        let loss = discriminator.forward(images.clone()).logits.mean();
        let gradient = images.grad(&loss.backward()).unwrap();
        assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
    }
}
