//! `kiln runs`: the trainings in a folder, and how they are.

mod chart;
mod compare;
mod differences;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::ensure;
use clap::{Args, Subcommand};
use kiln_train::{RunOverview, RunState, StageRecord};
use serde::Serialize;

use crate::table::Table;
use crate::terminal;

/// Show the trainings in a folder: their state, steps, losses, figures and speed.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  kiln runs
  kiln runs /data/experiments --tag ablation
  kiln runs compare runs/mnist runs/mnist-quick --plot compared.svg")]
pub struct Runs {
    #[command(subcommand)]
    command: Option<RunsCommand>,

    /// The folder of the runs, which may lie in folders of their own
    #[arg(value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,

    /// Show only runs with this tag; with several, those that have all of them
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,

    /// Print one JSON object on stdout instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum RunsCommand {
    Compare(compare::Compare),
}

/// The result, for `--json`.
#[derive(Serialize)]
struct Listed {
    runs: Vec<Shown>,
}

/// One run.
#[derive(Serialize)]
struct Shown {
    name: String,
    /// With its folder, for the table.
    #[serde(skip)]
    full_name: String,
    folder: PathBuf,
    /// `running`, `finished`, `has first stage`, `stopped` or `damaged`.
    state: &'static str,
    /// Why it is damaged.
    damage: Option<String>,
    tags: Vec<String>,
    revisions: Vec<String>,
    stages: Vec<ShownStage>,
}

/// A stage of a run.
#[derive(Serialize)]
struct ShownStage {
    stage: &'static str,
    steps_done: usize,
    steps: usize,
    /// The newest values of each metric, such as `loss/valid`.
    newest: BTreeMap<String, f64>,
    seconds_a_step: Option<f64>,
    devices: Option<String>,
    /// Since the newest row of metrics was written.
    seconds_since: Option<f64>,
}

impl Runs {
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(RunsCommand::Compare(compare)) = self.command {
            return compare.run();
        }
        let folder = self.folder.display();
        ensure!(
            self.folder.is_dir(),
            "{folder} is no folder: name the one with your runs, as in `kiln runs FOLDER`"
        );
        let mut runs = RunOverview::all_in(&self.folder);
        ensure!(!runs.is_empty(), "there is no run of kiln in {folder}");
        runs.retain(|run| self.tag.iter().all(|tag| run.label.tags.contains(tag)));
        ensure!(
            !runs.is_empty(),
            "no run in {folder} has {}",
            match &self.tag[..] {
                [tag] => format!("the tag {tag:?}"),
                tags => format!("all of the tags {tags:?}"),
            }
        );
        let listed = Listed {
            runs: runs.into_iter().map(Shown::of).collect(),
        };
        terminal::print_outcome(&listed, self.json, Listed::in_words)
    }
}

impl Shown {
    fn of(run: RunOverview) -> Self {
        let (state, damage) = match &run.state {
            RunState::Running => ("running", None),
            RunState::Finished => ("finished", None),
            RunState::HasFirstStage => ("has first stage", None),
            RunState::Stopped => ("stopped", None),
            RunState::Damaged(damage) => ("damaged", Some(damage.clone())),
        };
        Self {
            name: run.name(),
            full_name: run.full_name(),
            state,
            damage,
            stages: run.stages.iter().map(ShownStage::of).collect(),
            folder: run.folder,
            tags: run.label.tags,
            revisions: run.label.revisions,
        }
    }

    /// A row for each stage, or one that says that there is none.
    fn rows(&self, columns: &[&str]) -> Vec<Vec<String>> {
        let row = |name: &str, state: &str, stage: Option<&ShownStage>, tags: &str| {
            let of_stage = |word: fn(&ShownStage) -> String| stage.map(word).unwrap_or_default();
            let mut row = vec![
                name.to_owned(),
                state.to_owned(),
                of_stage(|stage| stage.stage.to_owned()),
                of_stage(|stage| format!("{}/{}", stage.steps_done, stage.steps)),
            ];
            row.extend(columns.iter().map(|column| {
                let value = stage.and_then(|stage| stage.newest.get(*column));
                value.copied().map(in_digits).unwrap_or_default()
            }));
            row.push(of_stage(|stage| match stage.seconds_a_step {
                Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
                Some(seconds) => format!("{seconds:.1} s"),
                None => String::new(),
            }));
            row.push(of_stage(|stage| {
                (stage.seconds_since.map(ago)).unwrap_or_default()
            }));
            row.push(tags.to_owned());
            row
        };
        let (name, tags) = (self.full_name.as_str(), self.tags.join(", "));
        if self.stages.is_empty() {
            return vec![row(name, self.state, None, &tags)];
        }
        let last = self.stages.len() - 1;
        let rows = self.stages.iter().enumerate().map(|(number, stage)| {
            let (state, tags) = match number == last {
                true => (self.state, tags.as_str()),
                false => ("", ""),
            };
            row(name, state, Some(stage), tags)
        });
        rows.collect()
    }
}

impl ShownStage {
    fn of(stage: &StageRecord) -> Self {
        let columns = stage.columns().into_iter();
        let newest = columns.filter_map(|column| Some((column.clone(), stage.newest(&column)?)));
        Self {
            stage: stage.name,
            steps_done: stage.steps_done(),
            steps: stage.training.steps,
            newest: newest.collect(),
            seconds_a_step: stage.step_time().map(|time| time.as_secs_f64()),
            devices: stage.devices(),
            seconds_since: stage.age().map(|age| age.as_secs_f64()),
        }
    }
}

/// The metrics that a table of runs shows: the losses, and what is measured on images.
pub const COLUMNS: [&str; 10] = [
    "loss/train",
    "loss/valid",
    "psnr/valid",
    "ssim/valid",
    "frechet/valid",
    "kernel/valid",
    "confident/valid",
    "fid/valid",
    "kid/valid",
    "accuracy/valid",
];

impl Listed {
    fn in_words(&self) -> String {
        let header = [&["run", "state", "stage", "steps"][..], &COLUMNS];
        let header = [&header.concat()[..], &["a step", "last row", "tags"]].concat();
        let mut table = Table::new(header.into_iter().map(str::to_owned));
        for run in &self.runs {
            run.rows(&COLUMNS)
                .into_iter()
                .for_each(|row| table.push(row));
        }
        let mut text = table.without_empty_columns().to_markdown(terminal::width());
        for run in &self.runs {
            if let Some(damage) = &run.damage {
                text += &format!("\n{} is damaged: {damage}", run.folder.display());
            }
        }
        text
    }
}

/// A value in four digits, or in powers of ten if it is very small or large.
fn in_digits(value: f64) -> String {
    match value.abs() {
        0.0 | 1e-3..1e5 => {
            let whole = value.abs().max(1.0).log10().floor() as usize;
            format!("{value:.0$}", 4_usize.saturating_sub(whole))
        }
        _ => format!("{value:.3e}"),
    }
}

/// A time that has passed, in the largest unit that fits.
fn ago(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, name) = unit.unwrap_or((1.0, "s"));
    format!("{:.0} {name} ago", (seconds / length).floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, text) in [
            (0.0, "0.0000"),
            (0.57, "0.5700"),
            (12.345_678, "12.346"),
            (-0.5, "-0.5000"),
            (12_345.6, "12346"),
            (1e-7, "1.000e-7"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(in_digits(value), text);
        }
        for (seconds, text) in [
            (0.4, "0 s ago"),
            (59.9, "59 s ago"),
            (3_599.0, "59 min ago"),
            (90_000.0, "1 d ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
