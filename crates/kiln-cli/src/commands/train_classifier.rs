//! `kiln train-classifier`: trains the judge of drawn digits, or a classifier of other images.

use clap::Args;
use kiln_train::{ClassifierExperiment, train_classifier};

use super::training::{TrainedModels, TrainingArguments};

/// Train a classifier: of digits, to measure drawn ones, or of any images with labels.
///
/// A config with a table [classifier] trains a residual network on any data set with classes. Its features compare images as
/// people do better than pixels can: `kiln evaluate --first-stage --perceptual classifier --perceptual-weights FILE`.
/// Without the table it trains the digit classifier, which `kiln evaluate --classifier FILE` uses instead of the one inside this
/// program. The run folder gets checkpoints, metrics.csv and curves.svg, and at the end model.safetensors. Ctrl-C saves a
/// checkpoint and stops; --resume goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln train-classifier --config configs/mnist-classifier.toml
  kiln train-classifier --config configs/cifar10-classifier.toml --data cifar-10-binary.tar.gz
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
            |path, overrides| Ok(ClassifierExperiment::load(path, overrides)?),
            train_classifier,
        )
    }
}
