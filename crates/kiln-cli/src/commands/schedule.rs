//! `kiln schedule`: shows how signal turns into noise, and which levels a sampler visits.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Args};
use kiln::plots::{PlottedSchedule, plot_schedules};
use kiln_diffusion::{Level, LevelOptions, Schedule, SchedulerConfig, Spacing, levels};
use kiln_train::Experiment;
use serde::Serialize;

use super::hub_arguments::HubArguments;
use super::numbers::{MANY, whole};
use super::sample::SpacingName;
use crate::terminal;
use kiln_train::counted;

/// The default of `--steps`, if there are as many timesteps.
const STEPS: usize = 20;

/// Show noise schedules: rates and log-SNR over the timestep, and the steps that a sampler visits.
///
/// Several schedules are drawn over each other. Warns of a schedule that leaves signal at its last timestep.
#[derive(Args)]
#[command(group(ArgGroup::new("source").args(["config", "model"]).required(true).multiple(true)))]
#[command(after_help = "Examples:
  kiln schedule --config configs/mnist.toml --plot schedules.png
  kiln schedule --config one.toml --config two.toml --steps 50 --spacing trailing --plot schedules.svg
  kiln schedule --model runs/mnist/model --json")]
pub struct ShowSchedule {
    /// An experiment whose schedule to show; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,

    /// Override a key of every config, as in schedule.kind=cosine; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,

    /// A model whose schedule to show, in a folder or on the Hub; may be repeated
    #[arg(long, value_name = "PATH|ORG/REPO[@REVISION]")]
    model: Vec<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    /// Draw the schedules to this file, which ends in .svg or .png; another one that is there stays, and the new one gets a number
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Sampling steps to mark [default: 20, or as many as there are timesteps]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MANY, 50))]
    steps: Option<usize>,

    /// Which timesteps those steps visit [default: each schedule's own]
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,

    /// Print one JSON object on stdout instead of words
    #[arg(long)]
    json: bool,
}

/// The result, for `--json`.
#[derive(Serialize)]
struct Outcome {
    schedules: Vec<Shown>,
    plot: Option<PathBuf>,
}

/// One schedule.
#[derive(Serialize)]
struct Shown {
    name: String,
    kind: &'static str,
    num_train_timesteps: usize,
    /// At timestep 0.
    first_log_snr: f64,
    /// At the last timestep; null if no signal is left.
    last_log_snr: f64,
    /// The share of the image that is left at the last timestep. It should be near zero; otherwise sampling starts from
    /// another distribution.
    terminal_signal_rate: f64,
    warning: Option<String>,
    spacing: Spacing,
    visited: Vec<Visited>,
}

/// A level at which a sampler calls its denoiser.
#[derive(Serialize)]
struct Visited {
    timestep: f64,
    signal_rate: f64,
    noise_rate: f64,
    /// Null if there is no signal.
    log_snr: f64,
}

impl ShowSchedule {
    /// Reads the schedules, draws them if asked to, and prints them.
    pub fn run(self) -> anyhow::Result<()> {
        let mut schedules = Vec::new();
        for path in &self.config {
            let name = path.file_stem().unwrap_or(path.as_os_str());
            let scheduler = Experiment::load(path, &self.set)?.scheduler();
            schedules.push(self.show(&name.to_string_lossy(), &scheduler)?);
        }
        for path in &self.model {
            let scheduler = scheduler_of(&self.hub.model(path)?)?;
            schedules.push(self.show(&path.display().to_string(), &scheduler)?);
        }
        let (schedules, plotted): (Vec<Shown>, Vec<PlottedSchedule>) =
            schedules.into_iter().unzip();
        let plot = self.plot.map(|path| plot_schedules(&plotted, &path));
        let outcome = Outcome {
            schedules,
            plot: plot.transpose()?,
        };
        terminal::print_outcome(&outcome, self.json, Outcome::in_words)
    }

    /// A schedule in numbers and for the plot.
    fn show(
        &self,
        name: &str,
        scheduler: &SchedulerConfig,
    ) -> anyhow::Result<(Shown, PlottedSchedule)> {
        let schedule = Schedule::new(scheduler.schedule.clone())?;
        let timesteps = schedule.num_train_timesteps();
        let options = LevelOptions {
            spacing: (self.spacing).map_or(scheduler.levels.spacing, Spacing::from),
            ..scheduler.levels
        };
        let steps = self.steps.unwrap_or(STEPS.min(timesteps));
        let mut visited = levels(&schedule, steps, options).with_context(|| name.to_owned())?;
        // The walk ends at the last level, without a call of the denoiser.
        visited.pop();
        let shown = Shown {
            name: name.to_owned(),
            kind: schedule.config().kind.name(),
            num_train_timesteps: timesteps,
            first_log_snr: schedule.log_snr(0.0),
            last_log_snr: schedule.log_snr((timesteps - 1) as f64),
            terminal_signal_rate: schedule.terminal_signal_rate(),
            warning: schedule.warning(),
            spacing: options.spacing,
            visited: visited.iter().map(Visited::of).collect(),
        };
        let plotted = PlottedSchedule {
            name: name.to_owned(),
            schedule,
            visited,
        };
        Ok((shown, plotted))
    }
}

impl Visited {
    fn of(level: &Level) -> Self {
        Self {
            timestep: level.timestep,
            signal_rate: level.rates.signal,
            noise_rate: level.rates.noise,
            log_snr: level.rates.log_snr(),
        }
    }
}

impl Outcome {
    fn in_words(&self) -> String {
        let widest = |word: fn(&Shown) -> &str, title: &str| {
            let words = self.schedules.iter().map(word).chain([title]);
            words
                .map(|word| word.chars().count())
                .max()
                .unwrap_or_default()
        };
        let width = widest(|shown| &shown.name, "schedule");
        let kinds = widest(|shown| shown.kind, "kind");
        let mut text = format!(
            "{:width$}  {:<kinds$}  timesteps  {:>8}  {:>8}  terminal signal\n",
            "schedule", "kind", "log-SNR", "to"
        );
        for shown in &self.schedules {
            text += &format!(
                "{:width$}  {:<kinds$}  {:>9}  {:>8.2}  {:>8.2}  {:>15.5}\n",
                shown.name,
                shown.kind,
                shown.num_train_timesteps,
                shown.first_log_snr,
                shown.last_log_snr,
                shown.terminal_signal_rate,
            );
        }
        for shown in &self.schedules {
            if let Some(warning) = &shown.warning {
                text += &format!("warning: {}: {warning}\n", shown.name);
            }
        }
        for shown in &self.schedules {
            let timesteps: Vec<String> = (shown.visited.iter())
                .map(|visited| format!("{:.0}", visited.timestep))
                .collect();
            text += &format!(
                "{} of {}: {}\n",
                counted(timesteps.len(), "step"),
                shown.name,
                timesteps.join(" ")
            );
        }
        if let Some(plot) = &self.plot {
            text += &format!("{}\n", plot.display());
        }
        text
    }
}

/// The config in a model's `scheduler/`; its weights are not read.
fn scheduler_of(model: &Path) -> anyhow::Result<SchedulerConfig> {
    let path = model.join("scheduler").join("scheduler_config.json");
    // The place in models from diffusers' first months.
    let beside_index = model.join("scheduler_config.json");
    let path = if !path.exists() && beside_index.exists() {
        beside_index
    } else {
        path
    };
    let text = kiln_data::read_text(&path).with_context(|| {
        format!(
            "{} holds no schedule: give the folder of a model, which has {}",
            model.display(),
            path.display()
        )
    })?;
    SchedulerConfig::from_json(&text).with_context(|| path.display().to_string())
}
