//! The first stage of latent diffusion: diffusers' `VQModel`.

mod config;

pub use config::{DecoderBlockType, EncoderBlockType, NormType, VqVaeConfig};

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Int, Tensor};

use crate::ConfigError;
use crate::autoencoder::{CoderShape, Decoder, Encoder};
use crate::blocks::{conv1x1, convolution};
use crate::config::require_size;
use crate::initialization::seeded;
use crate::quantizer::{Quantized, VectorQuantizer};

/// A VQ-VAE (van den Oord et al. 2017) with the encoder and decoder of VQGAN and latent diffusion
/// (Esser et al. 2021, Rombach et al. 2022): diffusers' `VQModel`.
///
/// Latents are the encoder's output *before* quantization: latent diffusion works on them, and
/// [`decode`](Self::decode) quantizes. [`scaling_factor`](Self::scaling_factor) is applied by neither.
#[derive(Module, Debug)]
pub struct VqVae {
    encoder: Encoder,
    quant_conv: Conv2d,
    /// The codebook. Public, because training replaces it: by moving averages, k-means and restarts.
    pub quantize: VectorQuantizer,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    #[module(skip)]
    config: VqVaeConfig,
}

impl VqVaeConfig {
    /// A new model with PyTorch's initial weights (which diffusers trains from), drawn from `seed`: the
    /// same on every device. The codes are uniform in ±1 / `num_vq_embeddings`.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and if the network would have billions of parameters.
    pub fn init(&self, device: &Device, seed: u64) -> Result<VqVae, ConfigError> {
        Ok(seeded(self.without_values(device)?, seed))
    }

    /// How many weights the network has. Nothing is allocated for them.
    ///
    /// # Errors
    /// Those of [`Self::init`].
    pub fn num_weights(&self) -> Result<usize, ConfigError> {
        Ok(self.without_values(&Device::flex())?.num_params())
    }

    /// A network whose weights have shapes, but no values until they are asked for.
    fn without_values(&self, device: &Device) -> Result<VqVae, ConfigError> {
        self.validate()?;
        let latent_dim = self.latent_dim();
        let shape = self.coder_shape();
        let options = shape.block_options(device);
        let model = VqVae {
            encoder: Encoder::new(&shape, &options),
            quant_conv: conv1x1(self.latent_channels, latent_dim, device),
            quantize: VectorQuantizer::new(self.num_vq_embeddings, latent_dim, device),
            post_quant_conv: conv1x1(latent_dim, self.latent_channels, device),
            decoder: Decoder::new(&shape, &options),
            config: self.clone(),
        };
        require_size(&model)?;
        Ok(model)
    }

    pub(crate) fn coder_shape(&self) -> CoderShape<'_> {
        CoderShape {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: &self.down_block_types,
            up_block_types: &self.up_block_types,
            block_out_channels: &self.block_out_channels,
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_num_groups,
            mid_block_attention: self.mid_block_add_attention,
            encoded_channels: self.latent_channels,
            latent_channels: self.latent_channels,
        }
    }
}

impl VqVae {
    /// The options that the model was made from.
    pub fn config(&self) -> &VqVaeConfig {
        &self.config
    }

    /// What latents are multiplied by to have a standard deviation of one: `config.scaling_factor`.
    pub fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    /// Sets `config.scaling_factor`, once it has been measured over the training set's latents.
    pub fn with_scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.scaling_factor = scaling_factor;
        self
    }

    /// Images `[batch, in_channels, height, width]` in [-1, 1] to latents `[batch, latent_dim, h, w]`
    /// before quantization, where h = height / [`downscale_factor`](VqVaeConfig::downscale_factor).
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        let hidden = self.encoder.forward(images.permute([0, 2, 3, 1]));
        convolution(&self.quant_conv, hidden)
            .forward()
            .permute([0, 3, 1, 2])
    }

    /// Latents `[batch, latent_dim, h, w]` to their nearest codes, with the losses of the codebook.
    pub fn quantize(&self, latents: Tensor<4>) -> Quantized {
        self.quantize.quantize(latents)
    }

    /// Codes `[batch, h, w]` in `0..num_vq_embeddings` to quantized latents `[batch, latent_dim, h, w]`.
    pub fn lookup(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        self.quantize.look_up(codes)
    }

    /// Latents `[batch, latent_dim, h, w]` to images `[batch, out_channels, height, width]`, by way of
    /// their nearest codes. Images are in about [-1, 1]; nothing is clipped.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.decode_quantized(self.quantize(latents).quantized)
    }

    /// Quantized latents `[batch, latent_dim, h, w]` to images `[batch, out_channels, height, width]`.
    pub fn decode_quantized(&self, quantized: Tensor<4>) -> Tensor<4> {
        let hidden = convolution(&self.post_quant_conv, quantized.permute([0, 2, 3, 1]));
        self.decoder.forward(hidden.forward()).permute([0, 3, 1, 2])
    }

    /// Images `[batch, in_channels, height, width]` to their reconstructions
    /// `[batch, out_channels, height, width]`, and how their latents were quantized: what training needs.
    pub fn forward(&self, images: Tensor<4>) -> (Tensor<4>, Quantized) {
        let quantized = self.quantize(self.encode(images));
        (
            self.decode_quantized(quantized.quantized.clone()),
            quantized,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn model() -> VqVae {
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
        let (reconstruction, quantized) = model.forward(images);
        assert_eq!(reconstruction.dims(), [2, 1, 16, 8]);
        assert_eq!(quantized.codes.dims(), [2, 4, 2]);
    }

    #[test]
    fn decoding_latents_is_decoding_their_codes() {
        let model = model();
        let latents = Tensor::<4>::random([1, 5, 3, 3], Distribution::Default, &Device::flex());
        let codes = model.quantize(latents.clone()).codes;
        let of_codes = model.decode_quantized(model.lookup(codes));
        let difference = (model.decode(latents) - of_codes).abs().max();
        // Straight-through values z + (e - z) are rounded, and normalisations magnify that.
        assert!(difference.into_scalar::<f32>() < 1e-4);
    }

    #[test]
    fn a_measured_scaling_factor_goes_into_the_config() {
        let model = model().with_scaling_factor(0.4);
        assert_eq!(model.scaling_factor(), 0.4);
        assert_eq!(model.config().scaling_factor, 0.4);
    }
}
