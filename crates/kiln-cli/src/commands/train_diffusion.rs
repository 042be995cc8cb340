//! `kiln train-diffusion`: diffusion in pixel space.

use clap::Args;

use super::training::{TrainedModels, TrainingArguments};

/// Train a U-Net that denoises images themselves, without a first stage: pixel space.
///
/// The experiment is one without the tables of a first stage. The run folder gets checkpoints, metrics.csv,
/// sample grids and curves.svg, and at the end the finished model, ready for `kiln sample --model`. Ctrl-C saves a
/// checkpoint and stops; --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln train-diffusion --config configs/cifar10-ddpm.toml --data cifar-10-binary.tar.gz
  kiln train-diffusion --config configs/flowers-pixel.toml --data 102flowers.tgz --out runs/flowers-pixel --resume")]
pub struct TrainDiffusion {
    #[command(flatten)]
    training: TrainingArguments,

    #[command(flatten)]
    models: TrainedModels,
}

impl TrainDiffusion {
    /// Trains to the end, or until it is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        self.training
            .run("stage_2", &self.models, kiln_train::train_diffusion)
    }
}
