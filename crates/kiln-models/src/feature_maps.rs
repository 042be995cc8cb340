//! How many numbers a network keeps for one image, estimated before anything is allocated.
//!
//! The layers are counted in the order in which the network runs them. The factors beyond the count were measured: the
//! peak of whole trainings and drawings is between the estimate and two thirds of it (see the tests here and in
//! `kiln-train`).

use crate::autoencoder::{CoderShape, Decoder, Encoder};
use crate::blocks::{DownBlockShape, MidBlockShape, Resampling, TimeScaleShift, UpBlockShape};
use crate::{AutoencoderConfig, UNet2dConfig, VqVaeConfig};

/// Numbers in memory for each number that a backward pass keeps: small layers and gaps between arrays add some.
const PER_KEPT: f64 = 1.25;
/// Copies of a sample elsewhere: in the batches that are read ahead, its noise, its target, and its picture.
const COPIES_OF_SAMPLE: f64 = 40.0;
/// Maps of the latents' size that a training step keeps of a posterior: its mean and variance, the noise, and the parts
/// of the sample and of the divergence.
const POSTERIOR_MAPS: usize = 10;

/// How many numbers a network keeps for one image.
#[derive(Debug, Clone, Copy)]
pub struct FeatureMaps {
    /// In a training step, until the backward pass has used them.
    pub training: f64,
    /// In drawing.
    pub drawing: f64,
}

impl FeatureMaps {
    /// For a U-Net on samples of this height and width.
    pub fn of_unet(unet: &UNet2dConfig, size: [usize; 2]) -> Self {
        let mut count = Count::new(size, unet.attention_head_dim);
        let is_composed =
            unet.dropout > 0.0 || unet.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        count.is_composed = is_composed;
        count.keep(unet.channels_in());
        count.skip(unet.block_out_channels.first().copied().unwrap_or(0));
        for level in unet.down_shapes() {
            count.down(&level, true);
        }
        if let Some(middle) = unet.mid_shape() {
            count.middle(&middle);
        }
        for level in unet.up_shapes() {
            count.up(&level);
        }
        count.in_all(unet.in_channels)
    }

    /// For a VQ-VAE on images of this height and width.
    pub fn of_vqvae(vqvae: &VqVaeConfig, size: [usize; 2]) -> Self {
        let of_quantizer = vqvae.quantizer.further_maps() * vqvae.latent_dim();
        Self::of_coder(&vqvae.coders(), of_quantizer, size)
    }

    /// For an autoencoder of any kind on images of this height and width.
    pub fn of_autoencoder(autoencoder: &AutoencoderConfig, size: [usize; 2]) -> Self {
        match autoencoder {
            AutoencoderConfig::Vq(config) => Self::of_vqvae(config, size),
            AutoencoderConfig::Kl(config) => {
                let of_posterior = POSTERIOR_MAPS * config.latent_channels;
                Self::of_coder(&config.coders(), of_posterior, size)
            }
        }
    }

    /// `channels_between` are kept between encoder and decoder.
    fn of_coder(shape: &CoderShape<'_>, channels_between: usize, size: [usize; 2]) -> Self {
        let mut count = Count::new(size, None);
        count.keep(shape.in_channels);
        for level in Encoder::levels(shape) {
            count.down(&level, false);
        }
        count.middle(&shape.mid_block());
        count.kept += count.pixels * channels_between as f64;
        count.middle(&shape.mid_block());
        for level in Decoder::levels(shape) {
            count.up(&level);
        }
        count.in_all(shape.in_channels)
    }
}

/// The counts up to a layer.
struct Count {
    /// Pixels of a feature map at this layer.
    pixels: f64,
    of_sample: f64,
    /// Channels of an attention head; `None` is one head of all channels.
    head_channels: Option<usize>,
    /// Whether the second half of a residual block is made of single operations, which keep their inputs.
    is_composed: bool,
    /// Numbers that the backward pass needs: the inputs of all convolutions and attentions.
    kept: f64,
    /// The skips that wait for the way up.
    skips: f64,
    /// The most that one layer works on.
    largest: f64,
}

impl Count {
    fn new([height, width]: [usize; 2], head_channels: Option<usize>) -> Self {
        let pixels = height as f64 * width as f64;
        Self {
            pixels,
            of_sample: pixels,
            head_channels,
            is_composed: false,
            kept: 0.0,
            skips: 0.0,
            largest: 0.0,
        }
    }

    fn keep(&mut self, channels: usize) {
        self.kept += self.pixels * channels as f64;
        self.largest = self.largest.max(self.pixels * channels as f64);
    }

    fn skip(&mut self, channels: usize) {
        self.skips += self.pixels * channels as f64;
    }

    fn residual(&mut self, channels_in: usize, channels_out: usize) {
        self.keep(channels_in);
        self.keep(channels_out);
        if self.is_composed {
            self.keep(3 * channels_out);
        }
    }

    /// The input, the queries, keys and values, and the result of the attention.
    fn attention(&mut self, channels: usize) {
        let head = self.head_channels.unwrap_or(channels).max(1);
        let inner = channels / head * head;
        self.keep(channels);
        self.keep(3 * inner);
        self.keep(inner);
    }

    /// The end of a level with this many channels; `factor` is the change of the number of pixels.
    fn resample(&mut self, resampling: Resampling, channels: usize, factor: f64) {
        match resampling {
            Resampling::None => return,
            Resampling::Convolution => self.keep(channels),
            Resampling::Residual => {
                // The first half is made of single operations: what is normalised, resized and convolved.
                let finer = self.pixels.max(self.pixels * factor);
                self.kept += 3.0 * finer * channels as f64;
            }
        }
        self.pixels *= factor;
    }

    fn down(&mut self, level: &DownBlockShape, with_skips: bool) {
        let mut channels = level.channels_in;
        for _ in 0..level.layers {
            self.residual(channels, level.channels_out);
            channels = level.channels_out;
            if level.attention {
                self.attention(channels);
            }
            if with_skips {
                self.skip(channels);
            }
        }
        self.resample(level.resampling, channels, 0.25);
        if with_skips && level.resampling != Resampling::None {
            self.skip(channels);
        }
    }

    fn middle(&mut self, middle: &MidBlockShape) {
        self.residual(middle.channels, middle.channels);
        if middle.attention {
            self.attention(middle.channels);
        }
        self.residual(middle.channels, middle.channels);
    }

    fn up(&mut self, level: &UpBlockShape) {
        for &channels_in in &level.channels_in {
            self.residual(channels_in, level.channels_out);
            if level.attention {
                self.attention(level.channels_out);
            }
        }
        self.resample(level.resampling, level.channels_out, 4.0);
    }

    /// With gradients: the skips' gradients wait for the way back down, beside the current layer's.
    fn in_all(self, sample_channels: usize) -> FeatureMaps {
        let sample = COPIES_OF_SAMPLE * self.of_sample * sample_channels as f64;
        FeatureMaps {
            training: PER_KEPT * self.kept + 2.0 * self.skips + 2.0 * self.largest + sample,
            drawing: self.skips + 3.0 * self.largest + sample,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DownBlockType, UpBlockType};

    #[test]
    fn both_sides_of_a_rectangle_count() {
        let vqvae = VqVaeConfig::default();
        let maps = |size| FeatureMaps::of_vqvae(&vqvae, size).drawing;
        assert_eq!(maps([8, 128]), maps([32, 32]));
        assert_eq!(maps([64, 128]), 2.0 * maps([64, 64]));
    }

    /// Peaks of `RssAnon` in /proc/PID/status, read every 4 ms while the release build drew in 3 steps, in MB.
    #[test]
    fn drawings_need_what_was_measured() {
        let two = UNet2dConfig {
            in_channels: 1,
            out_channels: 1,
            block_out_channels: vec![16, 32],
            layers_per_block: 1,
            down_block_types: vec![DownBlockType::DownBlock2D; 2],
            up_block_types: vec![UpBlockType::UpBlock2D; 2],
            norm_num_groups: 8,
            attention_head_dim: Some(16),
            ..UNet2dConfig::default()
        };
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        let cifar = UNet2dConfig {
            block_out_channels: vec![64, 128, 128, 128],
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, DownBlock2D, DownBlock2D],
            up_block_types: vec![UpBlock2D, UpBlock2D, AttnUpBlock2D, UpBlock2D],
            attention_head_dim: Some(128),
            ..UNet2dConfig::default()
        };
        // The program itself takes 32 MB, and each weight 4 numbers.
        for (unet, images, megabytes) in [
            (&two, 512, 418.0),
            (&two, 1024, 703.0),
            (&cifar, 64, 417.0),
            (&cifar, 256, 1079.0),
        ] {
            let maps = f64::from(images) * FeatureMaps::of_unet(unet, [32, 32]).drawing;
            let weights = 4.0 * unet.num_weights().unwrap() as f64;
            let ratio = (32.0 + 4.0 * (maps + weights) / 1e6) / megabytes;
            assert!((1.0..=1.5).contains(&ratio), "{images} images: {ratio}");
        }
    }
}
