//! Refuses a training that does not fit into memory, before anything is allocated.

use burn::tensor::Device;
use kiln_models::{FeatureMaps, too_little_memory};
use kiln_pipeline::Devices;

use crate::experiment::{Experiment, ExperimentError, TrainingConfig};

/// Bytes of a number.
const NUMBER: f64 = 4.0;
/// Bytes that any training needs besides its network and its images.
const PROGRAM: f64 = 32e6;
/// The largest count of numbers per weight, which occurs when a checkpoint is written: the weight, its average, its
/// gradient, the optimizer's two moments, and copies of them for the file.
const COPIES_OF_WEIGHTS: f64 = 23.0;

/// A network to train.
pub(crate) struct Trained<'a> {
    /// The table of the network in the config.
    pub(crate) network: &'static str,
    pub(crate) weights: usize,
    pub(crate) maps: FeatureMaps,
    /// The table of `training` in the config.
    pub(crate) table: &'static str,
    pub(crate) training: &'a TrainingConfig,
}

impl Trained<'_> {
    /// Refuses a network or a batch that does not fit into the free memory.
    ///
    /// # Errors
    /// [`ExperimentError::Memory`] with the key. The memory of devices other than processors is unknown.
    pub(crate) fn check_memory(&self, devices: &Devices) -> Result<(), ExperimentError> {
        if !is_processor(devices) {
            return Ok(());
        }
        let weights = format!("{} weights", self.weights);
        require(self.network, weights, self.bytes(0, devices))?;
        let batch = self.training.batch_size;
        let key = format!("{}.batch_size", self.table);
        require(&key, batch, self.bytes(batch, devices))
    }

    /// The same for the images that are drawn together for a picture.
    ///
    /// # Errors
    /// The errors of [`Self::check_memory`].
    pub(crate) fn check_pictures(
        &self,
        experiment: &Experiment,
        devices: &Devices,
    ) -> Result<(), ExperimentError> {
        match self.with_pictures(experiment, devices) {
            Some(needed) => require("sampling.count", experiment.sampling.count, needed),
            None => Ok(()),
        }
    }

    /// The largest number of bytes that the training needs, if it draws no pictures; `None` on other devices than
    /// processors.
    pub(crate) fn needed(&self, devices: &Devices) -> Option<f64> {
        is_processor(devices).then(|| self.bytes(self.training.batch_size, devices))
    }

    /// The same for a training that draws pictures; `None` if it draws none.
    pub(crate) fn with_pictures(&self, experiment: &Experiment, devices: &Devices) -> Option<f64> {
        let training = self.needed(devices)?;
        if !self.training.pictures_every.is_positive() {
            return None;
        }
        let size = [experiment.data.size; 2];
        let first_stage = experiment.first_stage.as_ref();
        let decoder =
            first_stage.map(|stage| FeatureMaps::of_autoencoder(&stage.network, size).drawing);
        let maps = self.maps.drawing.max(decoder.unwrap_or_default());
        Some(training + experiment.sampling.count as f64 * maps * NUMBER)
    }

    /// The bytes for a batch of this many images on each device.
    fn bytes(&self, batch: usize, devices: &Devices) -> f64 {
        bytes(self.weights, batch, self.maps, devices.all().len())
    }
}

fn bytes(weights: usize, batch: usize, maps: FeatureMaps, devices: usize) -> f64 {
    // A further device has its own weights and gradients, but not all of this is additional memory.
    let copies = COPIES_OF_WEIGHTS + (devices - 1) as f64;
    let images = (batch * devices) as f64;
    PROGRAM + NUMBER * (copies * weights as f64 + images * maps.training)
}

fn is_processor(devices: &Devices) -> bool {
    devices.first() == Device::flex()
}

fn require(key: &str, value: impl ToString, needed: f64) -> Result<(), ExperimentError> {
    match too_little_memory(needed) {
        Some(free) => Err(ExperimentError::Memory {
            key: key.to_owned(),
            value: value.to_string(),
            needed: needed / 1e9,
            free: free / 1e9,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use kiln_models::bottleneck::QuantizerConfig;
    use kiln_models::{
        AutoencoderConfig, AutoencoderKlConfig, DecoderBlockType, DownBlockType, EncoderBlockType,
        UNet2dConfig, UpBlockType, VqVaeConfig,
    };

    use super::*;

    /// Whether the measured value is at most the estimate, and at least two thirds of it.
    fn is_right(name: &str, estimated: f64, measured: f64) {
        let ratio = estimated / measured;
        assert!((1.0..=1.5).contains(&ratio), "{name}: {ratio}");
    }

    fn unet(channels: &[usize], layers: usize, attention: &[bool], images: usize) -> UNet2dConfig {
        let down = |&attention| match attention {
            true => DownBlockType::AttnDownBlock2D,
            false => DownBlockType::DownBlock2D,
        };
        let up = |&attention| match attention {
            true => UpBlockType::AttnUpBlock2D,
            false => UpBlockType::UpBlock2D,
        };
        UNet2dConfig {
            in_channels: images,
            out_channels: images,
            block_out_channels: channels.to_vec(),
            layers_per_block: layers,
            down_block_types: attention.iter().map(down).collect(),
            up_block_types: attention.iter().rev().map(up).collect(),
            norm_num_groups: 8,
            attention_head_dim: Some(16),
            ..UNet2dConfig::default()
        }
    }

    // All figures below are peaks of the resident memory (`VmHWM`, or `RssAnon` read every 4 ms, in /proc/PID/status) of the
    // release build in trainings of 2 to 6 steps, on two cores with AVX-512, in MB.

    #[test]
    fn trainings_of_unets_need_what_was_measured() {
        let cifar = [false, true, false, false];
        let two = [false, false];
        for (name, unet, side, batch, megabytes) in [
            ("one level", unet(&[32], 1, &[false], 1), 32, 512, 1758.0),
            ("two levels", unet(&[16, 32], 1, &two, 1), 32, 256, 586.0),
            ("two levels", unet(&[16, 32], 1, &two, 1), 32, 1024, 2184.0),
            (
                "attention within",
                unet(&[16, 32], 1, &[false, true], 1),
                32,
                1024,
                2738.0,
            ),
            (
                "attention",
                unet(&[16, 32], 1, &[true, true], 1),
                32,
                64,
                252.0,
            ),
            (
                "attention",
                unet(&[16, 32], 1, &[true, true], 1),
                32,
                256,
                875.0,
            ),
            (
                "three levels",
                unet(&[16, 32, 64], 2, &[false, false, true], 1),
                32,
                512,
                2153.0,
            ),
            (
                "cifar10-ddpm.toml",
                unet(&[64, 128, 128, 128], 2, &cifar, 3),
                32,
                1,
                663.0,
            ),
            (
                "cifar10-ddpm.toml",
                unet(&[64, 128, 128, 128], 2, &cifar, 3),
                32,
                32,
                1297.0,
            ),
            (
                "cifar10-ddpm.toml",
                unet(&[64, 128, 128, 128], 2, &cifar, 3),
                32,
                64,
                1598.0,
            ),
            (
                "cifar10-ddpm.toml",
                unet(&[64, 128, 128, 128], 2, &cifar, 3),
                32,
                128,
                2083.0,
            ),
            ("wide", unet(&[256, 512], 1, &two, 3), 8, 1, 2832.0),
        ] {
            let maps = FeatureMaps::of_unet(&unet, [side, side]);
            let estimated = bytes(unet.num_weights().unwrap(), batch, maps, 1) / 1e6;
            is_right(&format!("{name}, {batch}"), estimated, megabytes);
        }
        for (devices, megabytes) in [(1, 812.0), (2, 947.0), (4, 996.0)] {
            let unet = unet(&[128, 256], 1, &two, 3);
            let maps = FeatureMaps::of_unet(&unet, [8, 8]);
            let estimated = bytes(unet.num_weights().unwrap(), 1, maps, devices) / 1e6;
            is_right(&format!("{devices} devices"), estimated, megabytes);
        }
        let composed = |change: fn(&mut UNet2dConfig)| {
            let mut unet = unet(&[16, 32], 1, &two, 1);
            change(&mut unet);
            unet
        };
        for (name, unet, batch, megabytes) in [
            (
                "scale and shift",
                composed(|unet| {
                    unet.resnet_time_scale_shift = kiln_models::TimeScaleShift::ScaleShift
                }),
                512,
                1704.0,
            ),
            ("dropout", composed(|unet| unet.dropout = 0.1), 512, 1335.0),
        ] {
            let maps = FeatureMaps::of_unet(&unet, [32, 32]);
            let estimated = bytes(unet.num_weights().unwrap(), batch, maps, 1) / 1e6;
            is_right(name, estimated, megabytes);
        }
    }

    #[test]
    fn trainings_of_vqvaes_need_what_was_measured() {
        let vqvae = |channels: &[usize], layers, attention| VqVaeConfig {
            in_channels: 1,
            out_channels: 1,
            block_out_channels: channels.to_vec(),
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; channels.len()],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; channels.len()],
            layers_per_block: layers,
            latent_channels: 4,
            norm_num_groups: 8,
            mid_block_add_attention: attention,
            ..VqVaeConfig::default()
        };
        for (name, vqvae, batch, megabytes) in [
            ("mnist-quick.toml", vqvae(&[16, 32, 64], 1, false), 1, 63.0),
            (
                "mnist-quick.toml",
                vqvae(&[16, 32, 64], 1, false),
                256,
                419.0,
            ),
            (
                "mnist-quick.toml",
                vqvae(&[16, 32, 64], 1, false),
                1024,
                1515.0,
            ),
            (
                "many tables",
                VqVaeConfig {
                    vq_embed_dim: Some(16),
                    num_vq_embeddings: 16,
                    quantizer: QuantizerConfig::Residual { tables: 64 },
                    ..vqvae(&[16, 32, 64], 1, false)
                },
                256,
                667.0,
            ),
            ("wide", vqvae(&[64, 128], 2, true), 64, 816.0),
            ("wide", vqvae(&[64, 128], 2, true), 256, 2245.0),
        ] {
            let maps = FeatureMaps::of_vqvae(&vqvae, [32, 32]);
            let estimated = bytes(vqvae.num_weights().unwrap(), batch, maps, 1) / 1e6;
            is_right(&format!("{name}, {batch}"), estimated, megabytes);
        }
    }

    /// With smaller batches the peak varies by a third from run to run.
    #[test]
    fn trainings_of_kl_autoencoders_need_what_was_measured() {
        for (channels, layers, latent_channels, batch, megabytes) in [
            (&[16, 32], 1, 4, 1024, 1590.0),
            (&[16, 32], 1, 64, 1024, 2174.0),
            (&[64, 128], 2, 4, 256, 1890.0),
        ] {
            let network = AutoencoderConfig::Kl(AutoencoderKlConfig {
                in_channels: 1,
                out_channels: 1,
                block_out_channels: channels.to_vec(),
                down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; 2],
                up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; 2],
                layers_per_block: layers,
                latent_channels,
                norm_num_groups: 8,
                mid_block_add_attention: false,
                ..AutoencoderKlConfig::default()
            });
            let maps = FeatureMaps::of_autoencoder(&network, [32, 32]);
            let estimated = bytes(network.num_weights().unwrap(), batch, maps, 1) / 1e6;
            is_right(
                &format!("{channels:?}, {latent_channels}"),
                estimated,
                megabytes,
            );
        }
    }
}
