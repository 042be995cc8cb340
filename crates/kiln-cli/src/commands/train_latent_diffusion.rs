//! `kiln train-latent-diffusion`: stage 2.

use std::path::PathBuf;

use clap::Args;

use super::drawing::MODEL;
use super::training::{TrainedModels, TrainingArguments};

/// Train stage 2, the U-Net that denoises the latents of a trained first stage.
///
/// The run folder gets the encoded data set, checkpoints, metrics.csv, sample grids and curves.svg, and at the end the
/// finished model, ready for `kiln sample --model`. Ctrl-C saves a checkpoint and stops; --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln train-latent-diffusion --config configs/mnist.toml --out runs/mnist
  kiln train-latent-diffusion --config configs/mnist.toml --vqvae runs/other/model --out runs/second
  kiln train-latent-diffusion --config configs/mnist.toml --initial-weights pretrained/mnist-many-steps --out runs/further")]
pub struct TrainLatentDiffusion {
    #[command(flatten)]
    training: TrainingArguments,

    #[command(flatten)]
    models: TrainedModels,

    /// A trained first stage or a model that holds one, in a folder or on the Hub [default: the one in the run folder]
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]")]
    vqvae: Option<PathBuf>,
}

impl TrainLatentDiffusion {
    /// Trains to the end, or until it is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let models = TrainedModels {
            vqvae: self.vqvae,
            ..self.models
        };
        self.training
            .run("stage_2", &models, kiln_train::train_latent_diffusion)
    }
}
