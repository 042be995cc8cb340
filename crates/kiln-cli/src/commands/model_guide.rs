//! `kiln model guide`: joins a model and a worse version of it.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use kiln_checkpoint::Guide;
use kiln_diffusion::Guidance;
use kiln_models::WeightsType;
use kiln_train::{check_destination, load_model, record_of_model};
use serde::Serialize;

use super::drawing::parse_interval;
use super::hub_arguments::HubArguments;
use super::numbers::number;
use crate::terminal;

/// Give a model a guide: a worse version of it, a smaller one or one that was trained less.
///
/// Writes the model with the other's U-Net in its folder guide/. Images are then drawn with guidance (autoguidance,
/// Karras et al. 2024) by default; `--guidance 1` turns it off. diffusers ignores the guide. `kiln evaluate --guide`
/// measures guides and scales.
#[derive(Args)]
#[command(after_help = "Example:
  kiln model guide runs/mnist/model --by runs/mnist-800-steps/model --to guided")]
pub struct ModelGuide {
    /// Folder of the model, or one on the Hub
    #[arg(value_name = "PATH|ORG/REPO[@REVISION]")]
    model: PathBuf,

    /// The worse version of it
    #[arg(long, value_name = "PATH|ORG/REPO[@REVISION]")]
    by: PathBuf,

    /// Folder for the guided model
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,

    /// How far to go beyond the guide: 1 is the model as it is
    #[arg(long, default_value_t = Guide::USUAL_SCALE, value_name = "SCALE", value_parser = number(0.0..=f64::INFINITY, 2.0))]
    guidance: f64,

    /// Guide only between these noise rates, from 0 (clean) to 1 (noise)
    #[arg(long, default_value = "0-1", value_name = "FROM-TO", value_parser = parse_interval)]
    guidance_interval: Interval,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The lowest and the highest noise rate.
type Interval = [f64; 2];

/// The written model, for `--json`.
#[derive(Serialize)]
struct Outcome {
    folder: PathBuf,
    guidance: Guidance,
}

impl ModelGuide {
    /// Loads both, writes the guided model and prints its place.
    pub fn run(self) -> anyhow::Result<()> {
        check_destination(&self.to, &self.model, &[&self.by])?;
        let device = Device::flex();
        let [model, by] = [self.hub.model(&self.model)?, self.hub.model(&self.by)?];
        let load = |folder: &Path| load_model(folder, &device);
        let guidance = Guidance::new(self.guidance, self.guidance_interval)?;
        let guided = load(&model)?.guided_by(load(&by)?, guidance)?;
        let record = record_of_model(&model);
        guided.save_with_record(&self.to, WeightsType::F32, record.as_deref())?;
        let outcome = Outcome {
            folder: self.to,
            guidance,
        };
        terminal::print_outcome(&outcome, self.json, |outcome| {
            format!("{}  the model with its guide\n", outcome.folder.display())
        })
    }
}
