//! The smallest possible model: 6x6 gray images (8x8 with their padding), 4x4 latents.

use std::collections::BTreeMap;

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, FirstStage, Metadata};
use kiln_diffusion::{ScheduleConfig, SchedulerConfig};
use kiln_models::{
    DecoderBlockType, DownBlockType, EncoderBlockType, SampleSize, UNet2dConfig, UpBlockType,
    VqVaeConfig,
};

/// The largest number of sampling steps.
pub const TIMESTEPS: usize = 20;
/// Vectors in the codebook.
pub const CODES: usize = 16;

/// Names of the classes of [`conditional`].
pub const CLASSES: [&str; 3] = ["circle", "square", "star"];

/// Random weights, the same every time.
pub fn model() -> DiffusionModel {
    with_classes(&[])
}

/// The same model with classes, and a null class after them.
pub fn conditional() -> DiffusionModel {
    with_classes(&CLASSES)
}

/// A worse version of [`model`]: other weights for the same latents.
pub fn worse() -> DiffusionModel {
    let model = model();
    let unet = model.unet.config().init(&Device::flex(), 5);
    DiffusionModel {
        unet: unet.expect("a U-Net"),
        ..model
    }
}

fn with_classes(names: &[&str]) -> DiffusionModel {
    let device = Device::flex();
    let vqvae = VqVaeConfig {
        in_channels: 1,
        out_channels: 1,
        down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; 2],
        up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; 2],
        block_out_channels: vec![8, 8],
        latent_channels: 2,
        sample_size: 8,
        num_vq_embeddings: CODES,
        norm_num_groups: 4,
        scaling_factor: 0.5,
        mid_block_add_attention: false,
        ..VqVaeConfig::default()
    };
    let unet = UNet2dConfig {
        sample_size: Some(SampleSize::Square(4)),
        in_channels: 2,
        out_channels: 2,
        down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::AttnDownBlock2D],
        up_block_types: vec![UpBlockType::AttnUpBlock2D, UpBlockType::UpBlock2D],
        block_out_channels: vec![8, 8],
        layers_per_block: 1,
        attention_head_dim: Some(4),
        norm_num_groups: 4,
        num_class_embeds: (!names.is_empty()).then_some(names.len() + 1),
        ..UNet2dConfig::default()
    };
    let training = BTreeMap::from([("dataset".to_owned(), "nothing".to_owned())]);
    DiffusionModel {
        first_stage: Some(FirstStage {
            network: vqvae.init(&device, 1).expect("a VQ-VAE"),
            metadata: Metadata {
                border: 1,
                ..Metadata::default()
            },
        }),
        unet: unet.init(&device, 2).expect("a U-Net"),
        guide: None,
        scheduler: SchedulerConfig {
            schedule: ScheduleConfig {
                num_train_timesteps: TIMESTEPS,
                ..ScheduleConfig::default()
            },
            ..SchedulerConfig::default()
        },
        metadata: Metadata {
            training,
            class_names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Metadata::default()
        },
    }
}
