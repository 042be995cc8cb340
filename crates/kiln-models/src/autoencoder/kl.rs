use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::{AutoencoderKlConfig, CoderShape, Decoder, Encoder};
use crate::ConfigError;
use crate::blocks::{conv1x1, convolution};
use crate::config::require_size;
use crate::initialization::seeded;

/// The variational autoencoder of latent diffusion and Stable Diffusion (Kingma and Welling 2014; Rombach et al. 2022,
/// section 3.1): diffusers' `AutoencoderKL`.
///
/// The encoder gives mean and variance of a normal distribution; latents are its mean, as everywhere but in the
/// training of the autoencoder itself, which is not done here.
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    #[module(skip)]
    config: AutoencoderKlConfig,
}

impl AutoencoderKlConfig {
    /// A new model with PyTorch's initial weights, drawn from `seed`: the same on every device.
    ///
    /// # Errors
    /// Those of [`Self::validate`], and if the network would have billions of parameters.
    pub fn init(&self, device: &Device, seed: u64) -> Result<AutoencoderKl, ConfigError> {
        self.validate()?;
        let shape = self.coder_shape();
        let options = shape.block_options(device);
        let pointwise =
            |is_there: bool, channels| is_there.then(|| conv1x1(channels, channels, device));
        let model = AutoencoderKl {
            encoder: Encoder::new(&shape, &options),
            quant_conv: pointwise(self.use_quant_conv, shape.encoded_channels),
            post_quant_conv: pointwise(self.use_post_quant_conv, self.latent_channels),
            decoder: Decoder::new(&shape, &options),
            config: self.clone(),
        };
        require_size(&model)?;
        Ok(seeded(model, seed))
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
            // Means and variances.
            encoded_channels: 2 * self.latent_channels,
            latent_channels: self.latent_channels,
        }
    }
}

impl AutoencoderKl {
    /// The options that the model was made from.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// Sets `config.scaling_factor`, once it has been measured over the training set's latents.
    pub fn with_scaling_factor(mut self, scaling_factor: f64) -> Self {
        self.config.scaling_factor = scaling_factor;
        self
    }

    /// Images `[batch, in_channels, height, width]` in [-1, 1] to the means `[batch, latent_channels, h, w]` of their
    /// distributions, where h = height / [`downscale_factor`](crate::Autoencoder::downscale_factor).
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        let hidden = self.encoder.forward(images.permute([0, 2, 3, 1]));
        let moments = match &self.quant_conv {
            Some(layer) => convolution(layer, hidden).forward(),
            None => hidden,
        };
        let means = moments.narrow(3, 0, self.config.latent_channels);
        means.permute([0, 3, 1, 2])
    }

    /// Latents `[batch, latent_channels, h, w]` to images `[batch, out_channels, height, width]`, in about [-1, 1];
    /// nothing is clipped.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = latents.permute([0, 2, 3, 1]);
        let hidden = match &self.post_quant_conv {
            Some(layer) => convolution(layer, latents).forward(),
            None => latents,
        };
        self.decoder.forward(hidden).permute([0, 3, 1, 2])
    }
}
