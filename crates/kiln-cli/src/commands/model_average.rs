//! `kiln model average`: the length of a moving average, chosen after training.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use kiln_models::WeightsType;
use kiln_models::power_average::PowerAverage;
use kiln_train::{RunRecord, check_destination, record_of_model};
use serde::Serialize;

use super::numbers::{number, whole};
use crate::terminal;

/// Choose the length of a model's moving average after its training.
///
/// A training with `stage_2.power_averages` keeps two averages of the U-Net's weights at each checkpoint. Any other average
/// is a sum of these (post-hoc EMA, Karras et al. 2024, EDM2). `kiln evaluate --average` measures several lengths.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln evaluate --model runs/mnist --average 0.03,0.05,0.10,0.15 --config configs/mnist.toml
  kiln model average runs/mnist --length 0.10 --to averaged")]
pub struct ModelAverage {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// The standard deviation of the average over the steps, as a share of them: above 0 and below 0.289
    #[arg(long, value_name = "SHARE", value_parser = number(0.0..=PowerAverage::PLAIN_MEAN, 0.1))]
    length: f64,

    /// After so many training steps [default: all]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=usize::MAX as u64, 1000))]
    after: Option<usize>,

    /// Folder for the model
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The written model, for `--json`.
#[derive(Serialize)]
struct Outcome {
    folder: PathBuf,
    length: f64,
    /// The training steps that the average is of.
    steps: Option<String>,
}

impl ModelAverage {
    /// Makes the average, writes the model and prints its place.
    pub fn run(self) -> anyhow::Result<()> {
        check_destination(&self.to, &self.run, &[])?;
        let device = Device::flex();
        let model = RunRecord::averaged(&self.run, self.length, self.after, &device)?;
        let record = record_of_model(&self.run.join("model"));
        model.save_with_record(&self.to, WeightsType::F32, record.as_deref())?;
        let outcome = Outcome {
            folder: self.to,
            length: self.length,
            steps: model.metadata.training.get("steps").cloned(),
        };
        terminal::print_outcome(&outcome, self.json, |outcome| {
            format!(
                "{}  the model with an average of length {}{}\n",
                outcome.folder.display(),
                outcome.length,
                (outcome.steps.as_ref())
                    .map_or_else(String::new, |steps| format!(" after step {steps}"))
            )
        })
    }
}
