//! The networks and the bottleneck between them, as one.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::config::AutoencoderConfig;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::kl_config::AutoencoderKlConfig;
use super::vq_config::VqVaeConfig;
use crate::ConfigError;
use crate::blocks::{channels_first, conv1x1, convolution};
use crate::bottleneck::kl::Posterior;
use crate::bottleneck::{Bottleneck, Passed};
use crate::config::require_size;
use crate::initialization::seeded;

/// An autoencoder for a U-Net: diffusers' `VQModel` or `AutoencoderKL`.
///
/// Encoder and decoder are the ones of VQGAN and latent diffusion (Esser et al. 2021, Rombach et al. 2022). The
/// [bottleneck](Bottleneck) defines the latents, which [`encode`](Self::encode) returns and [`decode`](Self::decode)
/// takes. The U-Net sees them [normalised](Self::normalised), to a standard deviation of about one.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    /// Public, because training replaces a codebook with moving averages, k-means and restarts.
    pub bottleneck: Bottleneck,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    #[module(skip)]
    config: AutoencoderConfig,
}

impl VqVaeConfig {
    /// A new model with PyTorch's initial weights (which diffusers trains from), drawn from `seed`: the
    /// same on every device. The codes are uniform in ±1 / `num_vq_embeddings`.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and if the network would have billions of parameters.
    pub fn init(&self, device: &Device, seed: u64) -> Result<Autoencoder, ConfigError> {
        Ok(seeded(self.without_values(device)?, seed))
    }

    /// The number of the network's weights. This allocates nothing for them.
    ///
    /// # Errors
    /// Those of [`Self::init`].
    pub fn num_weights(&self) -> Result<usize, ConfigError> {
        Ok(self.without_values(&Device::flex())?.num_params())
    }

    /// A network whose weights have shapes, but no values until something reads them.
    fn without_values(&self, device: &Device) -> Result<Autoencoder, ConfigError> {
        self.validate()?;
        let latent_dim = self.latent_dim();
        let coders = self.coders();
        let options = coders.block_options(device);
        let model = Autoencoder {
            encoder: Encoder::new(&coders, &options),
            quant_conv: Some(conv1x1(self.latent_channels, latent_dim, device)),
            bottleneck: (self.quantizer).init(self.num_vq_embeddings, latent_dim, device),
            post_quant_conv: Some(conv1x1(latent_dim, self.latent_channels, device)),
            decoder: Decoder::new(&coders, &options),
            config: AutoencoderConfig::Vq(self.clone()),
        };
        require_size(&model)?;
        Ok(model)
    }
}

impl AutoencoderKlConfig {
    /// A new model with PyTorch's initial weights, drawn from `seed`: the same on every device.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and if the network would have billions of parameters.
    pub fn init(&self, device: &Device, seed: u64) -> Result<Autoencoder, ConfigError> {
        Ok(seeded(self.without_values(device)?, seed))
    }

    /// A network whose weights have shapes, but no values until something reads them.
    fn without_values(&self, device: &Device) -> Result<Autoencoder, ConfigError> {
        self.validate()?;
        let coders = self.coders();
        let options = coders.block_options(device);
        let pointwise =
            |is_there: bool, channels| is_there.then(|| conv1x1(channels, channels, device));
        let model = Autoencoder {
            encoder: Encoder::new(&coders, &options),
            quant_conv: pointwise(self.use_quant_conv, coders.encoded_channels),
            bottleneck: Bottleneck::Kl(Posterior::new(self.latent_channels)),
            post_quant_conv: pointwise(self.use_post_quant_conv, self.latent_channels),
            decoder: Decoder::new(&coders, &options),
            config: AutoencoderConfig::Kl(self.clone()),
        };
        require_size(&model)?;
        Ok(model)
    }
}

impl AutoencoderConfig {
    /// A new autoencoder: see [`VqVaeConfig::init`] and [`AutoencoderKlConfig::init`].
    ///
    /// # Errors
    /// Theirs.
    pub fn init(&self, device: &Device, seed: u64) -> Result<Autoencoder, ConfigError> {
        match self {
            Self::Vq(config) => config.init(device, seed),
            Self::Kl(config) => config.init(device, seed),
        }
    }

    /// The number of the network's weights. This allocates nothing for them.
    ///
    /// # Errors
    /// Those of [`Self::init`].
    pub fn num_weights(&self) -> Result<usize, ConfigError> {
        Ok(self.without_values()?.num_params())
    }

    /// The network whose weights have no values yet. This allocates nothing for them.
    ///
    /// # Errors
    /// Those of [`Self::init`].
    pub fn without_values(&self) -> Result<Autoencoder, ConfigError> {
        let device = Device::flex();
        match self {
            Self::Vq(config) => config.without_values(&device),
            Self::Kl(config) => config.without_values(&device),
        }
    }
}

impl Autoencoder {
    /// The options that the model was made from.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Sets the scaling factor, once it has been measured over the training set's latents.
    pub fn with_scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.set_scaling_factor(scaling_factor);
        self
    }

    /// Images `[batch, in_channels, height, width]` in [-1, 1] to latents `[batch, latent_dim, h, w]`, where h = height
    /// / [`downscale_factor`](AutoencoderConfig::downscale_factor). With a codebook they are not yet replaced by codes.
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        self.bottleneck.latents(self.encoded(images))
    }

    /// Images `[batch, in_channels, height, width]` in [-1, 1] to the bottleneck's input:
    /// `[batch, encoded_channels, h, w]`.
    pub fn encoded(&self, images: Tensor<4>) -> Tensor<4> {
        let hidden = self.encoder.forward(images.permute([0, 2, 3, 1]));
        channels_first(pointwise(&self.quant_conv, hidden))
    }

    /// Latents `[batch, latent_dim, h, w]` to images `[batch, out_channels, height, width]` in about [-1, 1], not
    /// clipped. With a codebook the latents are first replaced by their nearest codes.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode_passed(self.bottleneck.decodable(latents))
    }

    /// The latents that the bottleneck has [passed](Bottleneck::pass), `[batch, latent_dim, h, w]`, to images
    /// `[batch, out_channels, height, width]`.
    pub fn decode_passed(&self, latents: Tensor<4>) -> Tensor<4> {
        let hidden = pointwise(&self.post_quant_conv, latents.permute([0, 2, 3, 1]));
        channels_first(self.decoder.forward(hidden))
    }

    /// Images `[batch, in_channels, height, width]` to their reconstructions `[batch, out_channels, height, width]` and
    /// the bottleneck's result, which training needs. For `noise` see [`Bottleneck::pass`].
    pub fn forward(&self, images: Tensor<4>, noise: Option<Tensor<4>>) -> (Tensor<4>, Passed) {
        let passed = self.bottleneck.pass(self.encoded(images), noise);
        (self.decode_passed(passed.latents.clone()), passed)
    }

    /// The U-Net's z0: (latents - `shift_factor`) * `scaling_factor`.
    pub fn normalised(&self, latents: Tensor<4>) -> Tensor<4> {
        (latents - self.config.shift_factor()) * self.config.scaling_factor()
    }

    /// The latents that are [normalised](Self::normalised) to `z0`.
    pub fn denormalised(&self, z0: Tensor<4>) -> Tensor<4> {
        z0 / self.config.scaling_factor() + self.config.shift_factor()
    }
}

/// A 1x1 convolution of `[batch, height, width, channels]`, if the model has it.
fn pointwise(layer: &Option<Conv2d>, hidden: Tensor<4>) -> Tensor<4> {
    match layer {
        Some(layer) => convolution(layer, hidden).forward(),
        None => hidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoencoder::{DecoderBlockType, EncoderBlockType};
    use burn::tensor::Distribution;

    fn model() -> Autoencoder {
        let config = VqVaeConfig {
            in_channels: 1,
            out_channels: 1,
            block_out_channels: vec![4, 8, 8],
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; 3],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; 3],
            norm_num_groups: 2,
            num_vq_embeddings: 6,
            vq_embed_dim: Some(5),
            ..VqVaeConfig::default()
        };
        config.init(&Device::flex(), 0).unwrap()
    }

    #[test]
    fn latents_are_smaller_by_the_downscale_factor() {
        let model = model();
        let images = Tensor::<4>::random([2, 1, 16, 8], Distribution::Default, &Device::flex());
        assert_eq!(model.config().downscale_factor(), 4);
        let latents = model.encode(images.clone());
        assert_eq!(latents.dims(), [2, 5, 4, 2]);
        let (reconstruction, passed) = model.forward(images, None);
        assert_eq!(reconstruction.dims(), [2, 1, 16, 8]);
        assert_eq!(passed.codes.unwrap().dims(), [2, 1, 4, 2]);
    }

    #[test]
    fn decoding_latents_is_decoding_their_codes() {
        let model = model();
        let latents = Tensor::<4>::random([1, 5, 3, 3], Distribution::Default, &Device::flex());
        let Bottleneck::Vq(quantizer) = &model.bottleneck else {
            panic!("a codebook")
        };
        let codes = quantizer.quantize(latents.clone()).codes;
        let of_codes = model.decode_passed(quantizer.look_up(codes));
        let difference = (model.decode(latents) - of_codes).abs().max();
        // Straight-through values z + (e - z) are rounded, and normalisations magnify that.
        assert!(difference.into_scalar::<f32>() < 1e-4);
    }

    #[test]
    fn a_measured_scaling_factor_goes_into_the_config() {
        let model = model().with_scaling_factor(0.4);
        assert_eq!(model.config().scaling_factor(), 0.4);
        assert_eq!(model.config().vq().unwrap().scaling_factor, 0.4);
    }
}
