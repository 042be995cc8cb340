//! `kiln init`: an experiment that fits a data set and this machine.
//!
//! | file | what it does |
//! | --- | --- |
//! | `fitted.rs` | makes the experiment: looks, decides, measures, writes |
//! | `look.rs` | looks at the data: which set it is, its images as they are in their files |
//! | `choices.rs` | decides on sizes, networks and batches |
//! | `images.rs` | the size of the images, and whether they may be mirrored |
//! | `length.rs` | decides on the number of steps, by the set's size and the measured time |
//! | `experiment.rs` | writes the TOML, with the reason of each value |
//! | `stages.rs` | the part of it about networks and their trainings |
//! | `sheet.rs` | lays out its lines |
//! | `place.rs` | the file that it is written to |

mod choices;
mod experiment;
mod fitted;
mod images;
mod length;
mod look;
mod place;
mod sheet;
mod stages;

use std::path::PathBuf;

use clap::Args;
use kiln::Devices;
use kiln_train::{write_atomically, write_new};
use serde::Serialize;

use self::choices::{Space, Wishes};
use self::fitted::{Fitted, fitted};
use self::look::Look;
use self::place::{by_default, check};
use crate::commands::drawing::COMPUTING;
use crate::commands::expectations::{Expected, ImagesOutlook, is_processor};
use crate::commands::fact_table::FactTable;
use crate::commands::hub_arguments::HubArguments;
use crate::commands::next_commands::{Kind, command_line};
use crate::commands::numbers::whole;
use crate::terminal;

/// Write an experiment that fits a data set and this machine, and say how to train it.
///
/// Looks at the images: their sizes, whether they have colours, their classes and their number. Looks at the free memory, and
/// times real training steps for about ten seconds. Every line of the TOML says why its value was chosen. Images of up to 32
/// pixels are learnt in pixel space, larger ones in the latents of a first stage, at 64 pixels unless --size says otherwise. No
/// training takes longer than a night.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln init photos
  kiln init 'data/shard-{000000..000099}.tar' --space latent --size 128 --out photos-128.toml
  kiln init cifar-10 --data cifar-10-binary.tar.gz
  kiln init hf:huggan/flowers-102-categories")]
pub struct Init {
    /// The images: a folder (a subfolder per class), zip, tar, shards or table, hf:ORG/DATASET, or mnist, mnist-10k, cifar-10 or
    /// flowers-102
    #[arg(value_name = "DATA")]
    images: PathBuf,

    /// Where the named data set is: cifar-10 and flowers-102 are not downloaded
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// The TOML file to write [default: the data set's name and .toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Where the U-Net learns [default: pixel up to 32 pixels, latent above]
    #[arg(long, value_enum)]
    space: Option<Space>,

    /// The side of the images in pixels [default: near their own, and at most 64]
    #[arg(long, value_name = "PIXELS", value_parser = whole::<usize>(8..=256, 64))]
    size: Option<usize>,

    /// Where it will be trained: cpu, cpu:2 (two replicas), cuda:0,cuda:1, rocm:0, metal or wgpu
    #[arg(long, help_heading = COMPUTING, default_value = "cpu", value_name = "DEVICES")]
    devices: String,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// What was written, for `--json`.
#[derive(Serialize)]
struct Outcome {
    config: PathBuf,
    kind: Kind,
    size: usize,
    channels: usize,
    #[serde(flatten)]
    expected: Expected,
}

impl Init {
    /// Looks, measures, writes the file and prints the next commands.
    pub fn run(self) -> anyhow::Result<()> {
        let devices = Devices::parse(&self.devices)?;
        let wishes = Wishes {
            space: self.space,
            size: self.size,
            devices,
        };
        if let Some(out) = &self.out {
            check(out, self.force)?;
        }
        let hub = self.hub.settings();
        let look = Look::at(&self.images, self.data.as_deref(), &hub)?;
        let out = match self.out.clone() {
            Some(out) => out,
            None => by_default(&look, &self.images),
        };
        check(&out, self.force)?;
        let mut arguments = Vec::new();
        if self.devices != "cpu" {
            arguments = vec!["--devices".to_owned(), self.devices.clone()];
        }
        let fitted = fitted(&look, &wishes, &hub, &self.origin(), &out, &arguments)?;
        match self.force {
            true => write_atomically(&out, fitted.text.as_bytes())?,
            false => write_new(&out, fitted.text.as_bytes())?,
        }
        let outcome = Outcome::of(fitted, out, &arguments, &wishes.devices);
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// The command line, for the file's head.
    fn origin(&self) -> String {
        let mut words = vec!["init".to_owned(), self.images.display().to_string()];
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        add(
            "--data",
            self.data.as_ref().map(|path| path.display().to_string()),
        );
        add(
            "--space",
            self.space.map(|space| format!("{space:?}").to_lowercase()),
        );
        add("--size", self.size.map(|size| size.to_string()));
        add(
            "--devices",
            Some(self.devices.clone()).filter(|devices| devices != "cpu"),
        );
        command_line(&words)
    }
}

impl Outcome {
    fn of(fitted: Fitted, config: PathBuf, arguments: &[String], devices: &Devices) -> Self {
        let kind = fitted.trainable.kind();
        let check = ["check".to_owned(), config.display().to_string()];
        let check: Vec<String> = check.iter().chain(arguments).cloned().collect();
        let commands = [command_line(&check)].into_iter();
        Self {
            kind,
            size: fitted.choices.size,
            channels: fitted.choices.channels,
            expected: Expected {
                images: ImagesOutlook::of(&fitted.datasets, fitted.trainable.uses_classes()),
                free_memory: fitted.free_memory,
                stages: fitted.stages,
                commands: commands.chain(kind.commands(&config, arguments)).collect(),
                is_on_processor: is_processor(&devices.first()),
            },
            config,
        }
    }

    fn in_words(&self) -> String {
        let mut table = FactTable::default();
        table.row("written", self.config.display().to_string());
        table.row("trains", self.kind.in_words());
        self.expected.add_to(&mut table);
        let time = self
            .expected
            .time_in_words()
            .map_or_else(String::new, |time| {
                format!("All steps take about {time} here, by the steps that were measured. ")
            });
        format!(
            "{}\n{time}Look at {}, and go on with:\n{}",
            table.in_columns(),
            self.config.display(),
            self.expected.command_lines()
        )
    }
}
