//! `kiln check`: what a training will be like, before it starts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kiln::Devices;
use kiln_models::free_memory;
use kiln_train::Preview;
use serde::Serialize;

use super::drawing::{COMPUTING, MODEL};
use super::expectations::{Expected, ImagesOutlook, is_processor};
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
    /// `[channels, height, width]`, if there is a first stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    latents: Option<[usize; 3]>,
    devices: String,
    #[serde(flatten)]
    expected: Expected,
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
            kind: trainable.kind(),
            latents,
            devices: self.devices.clone(),
            expected: Expected {
                images: ImagesOutlook::of(&preview.datasets, trainable.uses_classes()),
                free_memory: free_memory(),
                stages: trainable.outlooks(&preview)?,
                commands: trainable.kind().commands(&self.config, &self.arguments()),
                is_on_processor: is_processor(&preview.devices.first()),
            },
            config: self.config,
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
        self.expected.add_to(&mut table);
        let time = match self.expected.time_in_words() {
            Some(time) => format!(
                "\nAll steps take about {time} here, by the steps that were measured; validations, pictures and checkpoints come on top.\n"
            ),
            None => "\nNo steps were measured.\n".to_owned(),
        };
        format!(
            "{}{time}Train and draw with:\n{}",
            table.in_columns(),
            self.expected.command_lines()
        )
    }
}
