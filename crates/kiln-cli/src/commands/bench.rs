//! `kiln bench`: how fast this machine trains and samples.

use std::{
    env,
    path::PathBuf,
    process::{self, ExitStatus, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use kiln::Devices;
use kiln_kernels::Precision;
use kiln_train::{Experiment, counted, describes_classifier};
use serde::Serialize;

use super::numbers::{MANY, whole};
use super::trainable::describes_student;
use crate::bench::{Calls, Machine, Measurement, Repeats, Size, Work};
use crate::terminal;

/// Repeats before the ones that count.
const WARM_UP: usize = 2;

/// Measure how fast this machine trains and samples, and in how much memory.
///
/// Takes the networks and batch sizes of an experiment, with random weights and random data: no data set is needed and
/// no file is written. A repeat is one training step, one drawing of --count images, or one decoding of as many. Each
/// work runs in a process of its own, so that its peak memory is its own. Several devices share training steps alone.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln bench --config configs/mnist.toml
  kiln bench --config configs/flowers.toml --work stage-1,stage-2 --batch-size 16 --json
  kiln bench --config configs/flowers.toml --devices cuda:0/cuda:0,cuda:1")]
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

    /// Images of each device in a training step [default: each stage's own]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=4096, 32))]
    batch_size: Option<u32>,

    /// Denoising steps of sampling (DDIM, unless the config says otherwise)
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = whole::<u32>(1..=MANY, 50))]
    steps: u32,

    /// Images that are drawn and decoded
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = whole::<u32>(1..=4096, 64))]
    count: u32,

    /// Repeats that are timed, after two that are not
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole::<u32>(1..=1000, 5))]
    repeats: u32,

    /// Where to compute: cpu, cpu:2 (two replicas), cuda:0,cuda:1, rocm:0, metal or wgpu; cpu:1/cpu:2 compares
    #[arg(
        long,
        default_value = "cpu",
        value_delimiter = '/',
        value_name = "DEVICES/...",
        overrides_with = "devices"
    )]
    devices: Vec<String>,

    /// Which numbers the convolutions multiply, f32, bf16 or auto [default: each stage's own, and auto to draw]
    #[arg(long)]
    precision: Option<Precision>,

    /// Print one JSON object on stdout, with every timing, instead of a table
    #[arg(long)]
    json: bool,

    /// Measure this one work in this process and print it as JSON; for internal use
    #[arg(long, hide = true)]
    only: Option<Work>,
}

/// The measurements, for `--json`.
#[derive(Serialize)]
struct Outcome {
    version: &'static str,
    machine: Machine,
    config: PathBuf,
    works: Vec<Line>,
}

/// One work on some devices.
#[derive(Serialize)]
struct Line {
    work: Work,
    devices: String,
    /// What its convolutions multiplied: f32 or bf16.
    precision: Precision,
    /// The median, in milliseconds.
    median: f64,
    min: f64,
    max: f64,
    images_per_second: f64,
    /// `images_per_second`, divided by the value of the same work on the first devices.
    speed_up: f64,
    #[serde(flatten)]
    measurement: Measurement,
}

impl Bench {
    /// Only models of both stages are measured.
    fn refuse_others(&self) -> anyhow::Result<()> {
        let (text, config) = (
            kiln_data::read_text(&self.config).unwrap_or_default(),
            self.config.display(),
        );
        ensure!(
            !describes_student(&text),
            "{config} describes a student, which has its teacher's networks: measure the config of its teacher"
        );
        ensure!(
            !describes_classifier(&text),
            "{config} describes a classifier; only diffusion models are measured"
        );
        Ok(())
    }

    /// Measures each work in a separate process and prints the table.
    pub fn run(self) -> anyhow::Result<()> {
        self.refuse_others()?;
        let mut experiment = Experiment::load(&self.config, &self.set)?;
        let devices = (self.devices.iter())
            .map(|text| self.checked(text))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(precision) = self.precision {
            if let Some(first_stage) = &mut experiment.first_stage {
                first_stage.stage_1.training.precision = precision;
            }
            experiment.stage_2.training.precision = precision;
        }
        if let Some(work) = self.only {
            let repeats = Repeats {
                warm_up: WARM_UP,
                timed: self.repeats as usize,
                calls: Calls::Exactly(1),
                announced: false,
            };
            let devices = devices.first().context("--devices is empty")?;
            let measurement = work.measure(&experiment, self.size(), repeats, devices)?;
            return terminal::print_outcome(&measurement, true, |_| String::new());
        }

        let tasks = self.tasks(&experiment, &devices)?;
        let bar = terminal::progress_bar(String::new(), tasks.len(), "works");
        let mut lines: Vec<Line> = Vec::new();
        for (work, devices) in tasks {
            bar.set_message(format!("{} on {devices}", self.name(work)));
            let measurement = in_own_process(work, devices)?;
            let first = lines.iter().find(|line| line.work == work);
            let speed = first.map(|line| line.images_per_second);
            let precision = work.precision(&experiment, self.size());
            let precision = precision.in_use(&devices.first());
            lines.push(Line::of(work, devices, precision, measurement, speed));
            bar.inc(1);
        }
        bar.finish_and_clear();

        let outcome = Outcome {
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::here(),
            config: self.config.clone(),
            works: lines,
        };
        terminal::print_outcome(&outcome, self.json, |outcome| self.table(outcome))
    }

    /// The devices of this name, after a check that they can compute in `--precision`.
    fn checked(&self, text: &str) -> anyhow::Result<Devices> {
        let devices = Devices::parse(text)?;
        devices.check_precision(self.precision.unwrap_or_default())?;
        Ok(devices)
    }

    /// The works to measure, each with its devices. Without `--work` these are all works, but only training on several
    /// devices.
    fn tasks<'a>(
        &self,
        experiment: &Experiment,
        devices: &'a [Devices],
    ) -> anyhow::Result<Vec<(Work, &'a Devices)>> {
        let is_possible = |work: Work, on: &Devices| work.is_training() || on.all().len() == 1;
        let everything = self.work.is_empty();
        let works = match everything {
            true => Work::all(experiment),
            false => self.work.clone(),
        };
        let mut tasks = Vec::new();
        for work in works {
            for on in devices {
                ensure!(
                    everything || is_possible(work, on),
                    "only training uses several devices: give one device instead of `{on}` for {}, such as --devices cpu",
                    self.name(work)
                );
                tasks.extend(is_possible(work, on).then_some((work, on)));
            }
        }
        Ok(tasks)
    }

    fn size(&self) -> Size {
        Size {
            batch_size: self.batch_size.map(|size| size as usize),
            steps: self.steps as usize,
            count: self.count as usize,
            precision: self.precision.unwrap_or(Precision::Auto),
        }
    }

    /// A work's name in the table.
    fn name(&self, work: Work) -> String {
        match work {
            Work::Stage1 => "stage 1, training step".into(),
            Work::Stage2 => "stage 2, training step".into(),
            Work::Sampling => format!("sampling, {}", counted(self.steps as usize, "step")),
            Work::Decoding => "decoding".into(),
        }
    }

    fn table(&self, outcome: &Outcome) -> String {
        let mut table = format!(
            "kiln {} on {}\n{}, median of {}\n\n{:<24}{:<16}{:<11}{:>6}{:>12}{:>24}{:>10}{:>10}{:>13}\n",
            outcome.version,
            outcome.machine,
            outcome.config.display(),
            counted(self.repeats as usize, "repeat"),
            "work",
            "devices",
            "precision",
            "images",
            "ms",
            "fastest - slowest",
            "images/s",
            "speed-up",
            "peak memory",
        );
        for line in &outcome.works {
            let memory = line.measurement.peak_memory.map_or_else(
                || "unknown".to_owned(),
                |bytes| format!("{:.0} MB", bytes as f64 / 1e6),
            );
            let spread = format!("{:.1} - {:.1}", line.min, line.max);
            table += &format!(
                "{:<24}{:<16}{:<11}{:>6}{:>12.1}{spread:>24}{:>10.1}{:>10.2}{memory:>13}\n",
                self.name(line.work),
                line.devices,
                line.precision.to_string(),
                line.measurement.images,
                line.median,
                line.images_per_second,
                line.speed_up,
            );
        }
        table
    }
}

impl Line {
    /// `first` is the speed on the first devices, unless these are the first.
    fn of(
        work: Work,
        devices: &Devices,
        precision: Precision,
        measurement: Measurement,
        first: Option<f64>,
    ) -> Self {
        let images_per_second = measurement.images_per_second();
        Self {
            work,
            devices: devices.to_string(),
            precision,
            median: measurement.median(),
            min: measurement.min(),
            max: measurement.max(),
            images_per_second,
            speed_up: first.map_or(1.0, |first| images_per_second / first),
            measurement,
        }
    }
}

/// Runs this program again, with the same arguments, `--only` and these devices.
fn in_own_process(work: Work, devices: &Devices) -> anyhow::Result<Measurement> {
    let name = work.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    let program = env::current_exe().context("cannot find this program's own file")?;
    let output = process::Command::new(program)
        .args(env::args_os().skip(1))
        .args(["--only", name, "--devices", &devices.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot start a process to measure in")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("cannot measure {name}: {}", reason(output.status, &stderr));
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the process that measured {name} printed no figures"))
}

/// Why a process failed: its own sentence, or otherwise its exit status.
fn reason(status: ExitStatus, stderr: &str) -> String {
    let sentence = stderr
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
        .map(str::to_owned);
    sentence.unwrap_or_else(|| {
        format!("its process ended with {status}, perhaps because it ran out of memory; try a smaller --batch-size or --count")
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
