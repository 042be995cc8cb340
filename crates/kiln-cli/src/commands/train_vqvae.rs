//! `kiln train-vqvae`: stage 1.

use clap::Args;

use super::training::{TrainedModels, TrainingArguments};

/// Train stage 1, the VQ-VAE or AutoencoderKL that compresses images into latents.
///
/// The run folder gets checkpoints, metrics.csv, reconstructions and curves.svg, and at the end the finished model.
/// Ctrl-C saves a checkpoint and stops; --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln train-vqvae --config configs/mnist.toml --out runs/mnist
  kiln train-vqvae --config configs/mnist.toml --out runs/mnist --resume --set stage_1.training.steps=20000
  kiln train-vqvae --config configs/mnist.toml --initial-weights runs/mnist --out runs/further")]
pub struct TrainVqvae {
    #[command(flatten)]
    training: TrainingArguments,

    #[command(flatten)]
    models: TrainedModels,
}

impl TrainVqvae {
    /// Trains to the end, or until it is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        let models = TrainedModels {
            only_first_stage: true,
            ..self.models
        };
        self.training
            .run("stage_1", &models, kiln_train::train_vqvae)
    }
}
