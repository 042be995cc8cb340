//! `kiln train-classifier`: trains the judge of drawn digits.

use clap::Args;
use kiln_train::{ClassifierExperiment, train_classifier};

use super::training::{TrainedModels, TrainingArguments};

/// Train the classifier that measures drawn digits.
///
/// The run folder gets checkpoints, metrics.csv and curves.svg, and at the end model.safetensors, which `kiln evaluate
/// --classifier` uses instead of the one inside this program. Ctrl-C saves a checkpoint and stops; --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln train-classifier --config configs/mnist-classifier.toml
  kiln train-classifier --config configs/mnist-classifier.toml --set training.steps=12000 --resume")]
pub struct TrainClassifier {
    #[command(flatten)]
    training: TrainingArguments,
}

impl TrainClassifier {
    /// Trains to the end, or until it is interrupted.
    pub fn run(self) -> anyhow::Result<()> {
        self.training.train(
            "training",
            &TrainedModels::default(),
            ClassifierExperiment::load,
            train_classifier,
        )
    }
}
