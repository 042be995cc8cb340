//! `kiln bench`: how fast this machine trains and samples.

use std::{
    env,
    path::PathBuf,
    process::{self, ExitStatus, Stdio},
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use kiln::bench::{Machine, Measurement, Repeats, Size, Work};
use kiln_kernels::Precision;
use kiln_train::Experiment;
use serde::Serialize;

use super::one_device;
use crate::terminal;

/// Repeats before the ones that count.
const WARM_UP: usize = 2;

/// Measure how fast this machine trains and samples, and in how much memory.
///
/// Takes the networks and batch sizes of an experiment, with random weights and random data: no data set is needed and
/// no file is written. A repeat is one training step, one drawing of --count images, or one decoding of as many. Each
/// work runs in a process of its own, so that its peak memory is its own.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln bench --config configs/mnist.toml
  kiln bench --config configs/flowers.toml --work stage-1,stage-2 --batch-size 16 --json")]
pub struct Bench {
    /// The experiment: a TOML file like those in configs/
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Override a key of the config, as in unet.block_out_channels=[64,128]; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// What to measure, separated by commas [default: everything]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORK,...")]
    work: Vec<Work>,

    /// Images in a training step [default: each stage's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: Option<u32>,

    /// Denoising steps of sampling (DDIM, unless the config says otherwise)
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,

    /// Images that are drawn and decoded
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    count: u32,

    /// Repeats that are timed, after two that are not
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,

    /// Where to compute: cpu, cuda:0, rocm:0, metal or wgpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    devices: String,

    /// Which numbers the convolutions multiply, f32 or bf16 [default: each stage's own, and f32 to draw]
    #[arg(long)]
    precision: Option<Precision>,

    /// Print one JSON object on stdout, with every timing, instead of a table
    #[arg(long)]
    json: bool,

    /// Measure this one work in this process and print it as JSON: what the program asks of itself
    #[arg(long, hide = true)]
    only: Option<Work>,
}

/// What was measured, for `--json`.
#[derive(Serialize)]
struct Outcome {
    version: &'static str,
    machine: Machine,
    config: PathBuf,
    devices: String,
    works: Vec<Line>,
}

/// One work.
#[derive(Serialize)]
struct Line {
    work: Work,
    /// The median, in milliseconds.
    median: f64,
    min: f64,
    max: f64,
    images_per_second: f64,
    #[serde(flatten)]
    measurement: Measurement,
}

impl Bench {
    /// Measures each work in a process of its own and prints the table.
    pub fn run(self) -> anyhow::Result<()> {
        let mut experiment = Experiment::load(&self.config, &self.set)?;
        let device = one_device(&self.devices, self.precision.unwrap_or_default())?;
        if let Some(precision) = self.precision {
            if let Some(stage_1) = &mut experiment.stage_1 {
                stage_1.training.precision = precision;
            }
            experiment.stage_2.training.precision = precision;
        }
        if let Some(work) = self.only {
            let repeats = Repeats {
                warm_up: WARM_UP,
                timed: self.repeats as usize,
            };
            let measurement = work.measure(&experiment, self.size(), repeats, &device)?;
            return terminal::print_outcome(&measurement, true, |_| String::new());
        }

        let works = if self.work.is_empty() {
            Work::all(&experiment)
        } else {
            self.work.clone()
        };
        let bar = terminal::progress_bar(String::new(), works.len(), "works");
        let mut lines = Vec::new();
        for work in works {
            bar.set_message(self.name(work));
            lines.push(Line::of(work, in_own_process(work)?));
            bar.inc(1);
        }
        bar.finish_and_clear();

        let outcome = Outcome {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::here(),
            config: self.config.clone(),
            devices: self.devices.clone(),
            works: lines,
        };
        terminal::print_outcome(&outcome, self.json, |outcome| self.table(outcome))
    }

    fn size(&self) -> Size {
        Size {
            batch_size: self.batch_size.map(|size| size as usize),
            steps: self.steps as usize,
            count: self.count as usize,
            precision: self.precision.unwrap_or_default(),
        }
    }

    /// A work in the words of the table.
    fn name(&self, work: Work) -> String {
        match work {
            Work::Stage1 => "stage 1, training step".into(),
            Work::Stage2 => "stage 2, training step".into(),
            Work::Sampling => format!("sampling, {} steps", self.steps),
            Work::Decoding => "decoding".into(),
        }
    }

    fn table(&self, outcome: &Outcome) -> String {
        let mut table = format!(
            "kiln {} on {}\n{} on {}, median of {} repeats\n\n{:<24}{:>8}{:>12}{:>24}{:>12}{:>14}\n",
            outcome.version,
            outcome.machine,
            outcome.config.display(),
            outcome.devices,
            self.repeats,
            "work",
            "images",
            "ms",
            "fastest - slowest",
            "images/s",
            "peak memory",
        );
        for line in &outcome.works {
            let memory = line.measurement.peak_memory.map_or_else(
                || "unknown".to_owned(),
                |bytes| format!("{:.0} MB", bytes as f64 / 1e6),
            );
            let spread = format!("{:.1} - {:.1}", line.min, line.max);
            table += &format!(
                "{:<24}{:>8}{:>12.1}{spread:>24}{:>12.1}{memory:>14}\n",
                self.name(line.work),
                line.measurement.images,
                line.median,
                line.images_per_second,
            );
        }
        table
    }
}

impl Line {
    fn of(work: Work, measurement: Measurement) -> Self {
        Self {
            work,
            median: measurement.median(),
            min: measurement.min(),
            max: measurement.max(),
            images_per_second: measurement.images_per_second(),
            measurement,
        }
    }
}

/// Runs this program once more, with the same arguments and `--only`.
fn in_own_process(work: Work) -> anyhow::Result<Measurement> {
    let name = work.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    let program = env::current_exe().context("cannot find this program's own file")?;
    let output = process::Command::new(program)
        .args(env::args_os().skip(1))
        .args(["--only", name])
        .stdin(Stdio::null())
        .output()
        .context("cannot start a process to measure in")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("cannot measure {name}: {}", reason(output.status, &stderr));
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the process that measured {name} gave no figures"))
}

/// Why a process failed: its own sentence, or without one, how it ended.
fn reason(status: ExitStatus, stderr: &str) -> String {
    let sentence = stderr
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
        .map(str::to_owned);
    sentence.unwrap_or_else(|| {
        format!("its process ended with {status}, perhaps for lack of memory; try a smaller --batch-size or --count")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_process_that_failed_says_why_or_how() {
        use std::os::unix::process::ExitStatusExt;
        let failed = ExitStatus::from_raw(1 << 8);
        assert_eq!(
            reason(failed, "a warning\nerror: no such key\n"),
            "no such key"
        );
        let killed = reason(ExitStatus::from_raw(9), "");
        assert!(
            killed.contains("signal: 9") && killed.contains("--batch-size"),
            "{killed}"
        );
    }
}
