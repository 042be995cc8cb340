//! `kiln check`: what a training will be like, before it starts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kiln::Devices;
use kiln_models::free_memory;
use kiln_train::Preview;
use serde::Serialize;

use super::drawing::{COMPUTING, MODEL};
use super::expectations::{
    ImagesOutlook, StageOutlook, free_in_words, is_processor, time_in_words,
};
use super::fact_table::{FactTable, shape};
use super::hub_arguments::HubArguments;
use super::next_commands::Kind;
use super::trainable::{Trainable, load};
use super::training::overrides;
use crate::terminal::{self, DataProgress};

/// For about how long the steps of a stage are timed.
const MEASURED: Duration = Duration::from_secs(3);

/// Check an experiment, and say what its training will be like: weights, memory, passes and time.
///
/// Refuses what the training would refuse, in the same words. The data set is opened as for a training, which downloads it
/// if it has to. The time is measured by real steps, for a few seconds a stage; it is that of the steps alone, without
/// encoding, validations, pictures and checkpoints. Nothing is left on the disk.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln check configs/mnist-quick.toml
  kiln check configs/flowers.toml --data 102flowers.tgz --set stage_2.training.batch_size=64 --json
  kiln check configs/mnist-few-steps.toml --model runs/mnist/model --quick")]
pub struct Check {
    /// The experiment: a TOML file like those in configs/
    #[arg(value_name = "CONFIG")]
    config: PathBuf,

    /// Override a key of the config, as in unet.block_out_channels=[64,128]; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Where the data set is, here or on the Hub; overrides data.path of the config
    #[arg(long, value_name = "PATH|hf:ORG/DATASET[:[CONFIGURATION/]SPLIT]")]
    data: Option<PathBuf>,

    /// The teacher, if the experiment is a distillation: a trained model, in a folder or on the Hub
    #[arg(long, help_heading = MODEL, value_name = "PATH|ORG/REPO[@REVISION]")]
    model: Option<PathBuf>,

    /// Where to compute: cpu, cpu:2 (two replicas), cuda:0,cuda:1, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICES")]
    devices: String,

    /// Measure no steps, so that no time is told
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// What was found, for `--json`.
#[derive(Serialize)]
struct Found {
    config: PathBuf,
    kind: Kind,
    images: ImagesOutlook,
    /// `[channels, height, width]`, if there is a first stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    latents: Option<[usize; 3]>,
    devices: String,
    /// Bytes; absent if the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    free_memory: Option<u64>,
    stages: Vec<StageOutlook>,
    /// The commands that train it.
    commands: Vec<String>,
    #[serde(skip)]
    is_on_processor: bool,
}

impl Check {
    /// Looks at every stage and prints the findings.
    pub fn run(self) -> anyhow::Result<()> {
        let devices = Devices::parse(&self.devices)?;
        let teacher = self.model.as_deref();
        let teacher = teacher.map(|place| self.hub.model(place)).transpose()?;
        let overrides = overrides(&self.set, self.data.as_deref());
        let trainable = load(&self.config, &overrides, teacher.as_deref())?;
        let (data, latents) = match &trainable {
            Trainable::Classifier(experiment) => (&experiment.data, None),
            Trainable::Model(experiment) => {
                let latents = experiment.first_stage.as_ref();
                (&experiment.data, latents.map(|_| experiment.sample_shape()))
            }
        };
        let hub = self.hub.settings();
        let datasets = kiln_hub::open_data_set(data, &hub, &DataProgress::default())?;
        let preview = Preview {
            datasets,
            devices,
            hub,
            teacher,
            measure: (!self.quick).then_some(MEASURED),
        };
        let found = Found {
            images: ImagesOutlook::of(&preview.datasets),
            kind: trainable.kind(),
            latents,
            devices: self.devices.clone(),
            free_memory: free_memory(),
            stages: trainable.outlooks(&preview)?,
            commands: trainable.kind().commands(&self.config, &self.arguments()),
            config: self.config,
            is_on_processor: is_processor(&preview.devices.first()),
        };
        terminal::print_outcome(&found, self.json, Found::in_words)
    }

    /// The arguments of the training that were given here.
    fn arguments(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
        for set in &self.set {
            add("--set", set.clone());
        }
        for (name, path) in [("--data", &self.data), ("--model", &self.model)] {
            if let Some(path) = path {
                add(name, path.display().to_string());
            }
        }
        if self.devices != "cpu" {
            add("--devices", self.devices.clone());
        }
        words
    }
}

impl Found {
    fn in_words(&self) -> String {
        let mut table = FactTable::default();
        table.row("config", self.config.display().to_string());
        table.row("trains", self.kind.in_words());
        if let Some(latents) = self.latents {
            table.row("latents", shape(latents));
        }
        table.row("devices", &self.devices);
        if let Some(free) = free_in_words() {
            table.row("free memory", free);
        }
        self.images.add_to(&mut table);
        for stage in &self.stages {
            stage.add_to(&mut table, self.is_on_processor);
        }
        let seconds: Option<f64> = self
            .stages
            .iter()
            .map(|stage| stage.outlook.seconds())
            .sum();
        let time = match seconds {
            Some(seconds) => format!(
                "\nAll steps take about {} here, by the steps that were measured; validations, pictures and checkpoints come on top.\n",
                time_in_words(seconds)
            ),
            None => "\nNo steps were measured.\n".to_owned(),
        };
        let commands: String = (self.commands.iter())
            .map(|command| format!("  {command}\n"))
            .collect();
        format!(
            "{}{time}Train and draw with:\n{commands}",
            table.in_columns()
        )
    }
}
