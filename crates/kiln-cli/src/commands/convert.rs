//! `kiln convert`: converts a checkpoint of the original code to the diffusers layout.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use kiln_checkpoint::{ConvertOptions, Converted, convert};
use kiln_models::WeightsType;
use kiln_train::check_destination;
use serde::Serialize;

use super::numbers::{MANY, whole};
use crate::terminal;

/// Convert a checkpoint of CompVis' latent diffusion to the diffusers layout.
///
/// Converts a whole unconditional model or one of its autoencoders (VQ or KL). Reads only the weights of the file, and
/// never runs its code. Names a tensor that diffusers' networks do not have, as in lucidrains'
/// denoising-diffusion-pytorch.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln convert celebahq/model.ckpt --to celebahq
  kiln convert vq-f4/model.ckpt --to vq-f4 --half
  kiln convert churches/model.ckpt --to churches --head-channels 24")]
pub struct Convert {
    /// The checkpoint: .ckpt, .pt or .safetensors
    #[arg(value_name = "FILE")]
    checkpoint: PathBuf,

    /// Folder for the model
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,

    /// Channels of an attention head (num_head_channels in the model's yaml), which the weights do not contain
    #[arg(long, default_value_t = ConvertOptions::default().head_channels, value_name = "N", value_parser = whole::<usize>(1..=MANY, 32))]
    head_channels: usize,

    /// The side of the images that the model draws, in pixels, which the weights do not contain
    #[arg(long, default_value_t = ConvertOptions::default().image_size, value_name = "PIXELS", value_parser = whole::<usize>(1..=MANY, 256))]
    image_size: usize,

    /// Write the weights in half precision: half the size, three digits
    #[arg(long)]
    half: bool,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The written model, for `--json`.
#[derive(Serialize)]
struct Outcome {
    folder: PathBuf,
    /// `LDMPipeline`, `DDIMPipeline`, `VQModel` or `AutoencoderKL`.
    class: &'static str,
}

impl Convert {
    /// Reads the checkpoint, writes the folder and prints its content.
    pub fn run(self) -> anyhow::Result<()> {
        check_destination(&self.to, &self.checkpoint, &[])?;
        let options = ConvertOptions {
            head_channels: self.head_channels,
            image_size: self.image_size,
        };
        let converted = convert(&self.checkpoint, options, &Device::flex())?;
        let weights_type = if self.half {
            WeightsType::F16
        } else {
            WeightsType::F32
        };
        converted.save(&self.to, weights_type)?;
        let outcome = Outcome {
            folder: self.to,
            class: match &converted {
                Converted::Model(model) if model.first_stage.is_none() => "DDIMPipeline",
                Converted::Model(_) => "LDMPipeline",
                Converted::FirstStage(first_stage) => first_stage.network.config().class(),
            },
        };
        terminal::print_outcome(&outcome, self.json, |outcome| {
            format!(
                "{}  a model of diffusers' {}\n",
                outcome.folder.display(),
                outcome.class
            )
        })
    }
}
