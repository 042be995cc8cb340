//! `kiln init`: an experiment that fits a data set and this machine.
//!
//! | file | what it does |
//! | --- | --- |
//! | `fitted.rs` | makes the experiment: looks, decides, measures, writes |
//! | `look.rs` | looks at the data: which set it is, its images as they are in their files |
//! | `choices.rs` | decides on sizes, networks and batches |
//! | `length.rs` | decides on the number of steps, by the set's size and the measured time |
//! | `experiment.rs` | writes the TOML, with the reason of each value |
//! | `sheet.rs` | lays out its lines |

mod choices;
mod experiment;
mod fitted;
mod length;
mod look;
mod sheet;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use kiln::Devices;
use serde::Serialize;

use self::choices::{Space, Wishes};
use self::fitted::{Fitted, fitted};
use self::look::Look;
use crate::commands::drawing::COMPUTING;
use crate::commands::expectations::{
    ImagesOutlook, StageOutlook, free_in_words, is_processor, time_in_words,
};
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
    images: ImagesOutlook,
    stages: Vec<StageOutlook>,
    /// The commands that train it.
    commands: Vec<String>,
    #[serde(skip)]
    is_on_processor: bool,
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
            self.check_place(out)?;
        }
        let hub = self.hub.settings();
        let look = Look::at(&self.images, self.data.as_deref(), &hub)?;
        let out = match self.out.clone() {
            Some(out) => out,
            None => default_place(&look, &self.images),
        };
        self.check_place(&out)?;
        let mut arguments = Vec::new();
        if self.devices != "cpu" {
            arguments = vec!["--devices".to_owned(), self.devices.clone()];
        }
        let fitted = fitted(&look, &wishes, &hub, &self.origin(), &out, &arguments)?;
        write_new(&out, &fitted.text, self.force)?;
        let outcome = Outcome::of(fitted, out, &arguments, &wishes.devices);
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// Refuses a place where no file can be written, before any work.
    fn check_place(&self, out: &Path) -> anyhow::Result<()> {
        let place = out.display();
        ensure!(
            !out.is_dir(),
            "{place} is a folder: name the file to write, as in --out {place}/experiment.toml"
        );
        ensure!(
            self.force || out.symlink_metadata().is_err(),
            "{place} exists already: choose another file with --out, or replace it with --force"
        );
        let folder = folder_of(out);
        ensure!(
            folder.is_dir(),
            "there is no folder {} for {place}: make it, or choose another place with --out",
            folder.display()
        );
        Ok(())
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
            images: ImagesOutlook::of(&fitted.datasets),
            stages: fitted.stages,
            commands: commands.chain(kind.commands(&config, arguments)).collect(),
            config,
            is_on_processor: is_processor(&devices.first()),
        }
    }

    fn in_words(&self) -> String {
        let mut table = FactTable::default();
        table.row("written", self.config.display().to_string());
        table.row("trains", self.kind.in_words());
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
        let time = seconds.map_or_else(String::new, |seconds| {
            format!(
                "All steps take about {} here, by the steps that were measured. ",
                time_in_words(seconds)
            )
        });
        let commands: String = (self.commands.iter())
            .map(|command| format!("  {command}\n"))
            .collect();
        format!(
            "{}\n{time}Look at {}, and go on with:\n{commands}",
            table.in_columns(),
            self.config.display()
        )
    }
}

fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The data set's name and .toml, in the current folder.
fn default_place(look: &Look, images: &Path) -> PathBuf {
    let named = |path: &Path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let name = match look.data.path.as_deref() {
        Some(path) if path == images => named(path).unwrap_or_default(),
        _ => look.data.dataset.to_string(),
    };
    // What follows a brace or a colon says which part of the data it is.
    let name = name.split(['{', ':']).next().unwrap_or_default();
    let plain = |letter: char| match letter.is_alphanumeric() || "-_.".contains(letter) {
        true => letter,
        false => '-',
    };
    let name: String = name.chars().map(plain).collect();
    match name.trim_matches(['-', '_', '.']) {
        "" => "experiment.toml".into(),
        name => format!("{name}.toml").into(),
    }
}

/// Writes a whole file under another name and renames it. What came there in the meantime stays, unless it may be
/// replaced.
fn write_new(out: &Path, text: &str, may_replace: bool) -> anyhow::Result<()> {
    let write = || {
        let mut names = tempfile::Builder::new();
        names.prefix(".kiln-").suffix(".partial");
        // Not `tempfile_in`, which denies other users access to its files.
        let mut file = names.make_in(folder_of(out), |path| File::create_new(path))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        match may_replace {
            true => file.persist(out),
            false => file.persist_noclobber(out),
        }
        .map_err(|error| error.error)?;
        Ok::<_, std::io::Error>(())
    };
    write().with_context(|| format!("cannot write {}", out.display()))
}

#[cfg(test)]
mod tests {
    use kiln_data::{DataConfig, DatasetKind};

    use super::*;

    #[test]
    fn a_file_is_named_after_its_data() {
        let place = |path: &str| {
            let mut look = Look::of_side(32);
            look.data = DataConfig {
                path: Some(path.into()),
                ..DataConfig::new(DatasetKind::Folder, 32, 1)
            };
            default_place(&look, Path::new(path)).display().to_string()
        };
        for (path, expected) in [
            ("my photos/", "my-photos.toml"),
            ("data/shard-{000..099}.tar", "shard.toml"),
            ("hf:ada/cats:train", "cats.toml"),
            ("archive.tar", "archive.toml"),
            ("/", "experiment.toml"),
        ] {
            assert_eq!(place(path), expected, "{path}");
        }
        let look = Look::of_side(28);
        assert_eq!(
            default_place(&look, Path::new("MNIST-10k")),
            Path::new("mnist-10k.toml")
        );
    }

    #[test]
    fn a_file_that_appeared_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.toml");
        write_new(&out, "one", false).unwrap();
        let sentence = format!("{:#}", write_new(&out, "two", false).unwrap_err());
        assert!(sentence.starts_with("cannot write"), "{sentence}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "one");
        write_new(&out, "three", true).unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
