//! `kiln runs compare`: what runs have set otherwise, and their curves over each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use kiln::plots::{Rows, plot_compared};
use kiln_train::RunOverview;
use serde::Serialize;

use super::chart;
use super::differences::{Differences, differences};
use super::in_digits;
use crate::table::Table;
use crate::terminal;

/// Compare runs: the keys that they set otherwise, their newest numbers, and their curves over each other.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln runs compare runs/mnist runs/mnist-quick
  kiln runs compare runs/a runs/b runs/c --metric loss/valid --metric frechet/valid --plot compared.svg")]
pub struct Compare {
    /// The runs
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,

    /// What to compare, as metrics.csv names it; may be repeated [default: all that is measured in validation]
    #[arg(long, value_name = "COLUMN")]
    metric: Vec<String>,

    /// Draw the curves to this file, which ends in .svg or .png; another one that is there stays, and the new one gets a number
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print one JSON object on stdout instead of tables
    #[arg(long)]
    json: bool,
}

/// The result, for `--json`.
#[derive(Serialize)]
struct Compared {
    runs: Vec<String>,
    /// The stage that all of them have, and that is compared.
    stage: &'static str,
    /// The keys that are not the same in all, with the value in each run.
    differences: Differences,
    steps_done: Vec<usize>,
    /// The newest value of each column in each run.
    newest: BTreeMap<String, Vec<Option<f64>>>,
    seconds_a_step: Vec<Option<f64>>,
    plot: Option<PathBuf>,
}

impl Compare {
    pub fn run(self) -> anyhow::Result<()> {
        let (mut runs, mut configs) = (Vec::new(), Vec::new());
        for folder in &self.runs {
            let Some(run) = RunOverview::of(folder) else {
                bail!(
                    "{} is no run of kiln: give the folders of runs, which `kiln runs` lists",
                    folder.display()
                );
            };
            let config = folder.join("config.toml");
            let text = kiln_data::read_text(&config)
                .with_context(|| format!("cannot read {}", config.display()))?;
            let table = text.parse();
            configs.push(table.with_context(|| format!("{} is not TOML", config.display()))?);
            runs.push(run);
        }
        let mut names: Vec<String> = runs.iter().map(RunOverview::name).collect();
        let different: BTreeSet<&String> = names.iter().collect();
        if different.len() < names.len() {
            names = runs.iter().map(RunOverview::full_name).collect();
        }
        // Of latent diffusion the second one, if all have it.
        let mut last_first = runs[0].stages.iter().rev().map(|stage| stage.name);
        let of_all = |name: &'static str| {
            let stages = runs
                .iter()
                .map(|run| run.stages.iter().find(|of| of.name == name));
            Some((name, stages.collect::<Option<Vec<_>>>()?))
        };
        let (stage, stages) = last_first.find_map(of_all).context(
            "these runs have no stage in common that has begun, so there is nothing to compare",
        )?;
        let all: BTreeSet<String> = stages.iter().flat_map(|stage| stage.columns()).collect();
        let columns = self.columns(&all, stage)?;
        let newest = columns.iter().map(|column| {
            let values = stages.iter().map(|stage| stage.newest(column));
            (column.clone(), values.collect())
        });
        let rows: Vec<(String, Rows)> = (names.iter().zip(&stages))
            .map(|(name, stage)| (name.clone(), stage.rows.clone()))
            .collect();
        let plot = (self.plot.as_ref()).map(|path| plot_compared(stage, &columns, &rows, path));
        let compared = Compared {
            stage,
            differences: differences(&configs),
            steps_done: stages.iter().map(|stage| stage.steps_done()).collect(),
            newest: newest.collect(),
            seconds_a_step: (stages.iter())
                .map(|stage| Some(stage.step_time()?.as_secs_f64()))
                .collect(),
            plot: plot.transpose()?,
            runs: names,
        };
        terminal::print_outcome(&compared, self.json, Compared::in_words)?;
        if !self.json {
            for column in columns.iter().take(MOST_CHARTS) {
                chart::show(column, &curves(column, &rows));
            }
        }
        Ok(())
    }

    /// The columns to compare, of `all` that the runs have.
    fn columns(&self, all: &BTreeSet<String>, stage: &str) -> anyhow::Result<Vec<String>> {
        if let Some(unknown) = self.metric.iter().find(|column| !all.contains(*column)) {
            let known: Vec<&str> = all.iter().map(String::as_str).collect();
            bail!(
                "{stage} of these runs has no column `{unknown}`: it has {}",
                known.join(", ")
            );
        }
        let mut columns = match self.metric.is_empty() {
            true => {
                let validated = all.iter().filter(|column| column.ends_with("/valid"));
                validated.cloned().collect()
            }
            false => self.metric.clone(),
        };
        ensure!(
            !columns.is_empty(),
            "{stage} of these runs has not been validated yet: name a column, as in --metric loss/train"
        );
        if self.metric.is_empty() {
            columns.sort_by_key(|column| column != "loss/valid");
        }
        Ok(columns)
    }
}

/// The number of charts in the terminal. The plot has all.
const MOST_CHARTS: usize = 2;

/// The points of a column, by run.
fn curves(column: &str, runs: &[(String, Rows)]) -> Vec<chart::NamedCurve> {
    let points = |rows: &Rows| {
        let points = rows
            .iter()
            .filter_map(|(&step, row)| Some((step as f64, *row.get(column)?)));
        points.collect()
    };
    let curves = runs.iter().map(|(name, rows)| (name.clone(), points(rows)));
    curves.collect()
}

impl Compared {
    fn in_words(&self) -> String {
        let header = |first: &str| {
            let names = self.runs.iter().cloned();
            Table::new([first.to_owned()].into_iter().chain(names))
        };
        let mut keys = header("key");
        for (key, values) in &self.differences {
            let values = values.iter().map(|value| match value {
                Some(value) => value.clone(),
                None => "not set".to_owned(),
            });
            keys.push([key.clone()].into_iter().chain(values).collect());
        }
        let mut numbers = header(self.stage);
        let mut add = |name: &str, cells: Vec<String>| {
            numbers.push([name.to_owned()].into_iter().chain(cells).collect());
        };
        add(
            "steps",
            self.steps_done.iter().map(usize::to_string).collect(),
        );
        for (column, values) in &self.newest {
            let cells = values.iter();
            let cells = cells.map(|value| value.map(in_digits).unwrap_or_default());
            add(column, cells.collect());
        }
        let times = self.seconds_a_step.iter();
        let times = times.map(|time| time.map(in_digits).unwrap_or_default());
        add("seconds a step", times.collect());
        let keys = match self.differences.is_empty() {
            true => "the configs are the same\n".to_owned(),
            false => keys.to_markdown(terminal::width()),
        };
        let mut text = format!("{keys}\n{}", numbers.to_markdown(terminal::width()));
        if let Some(plot) = &self.plot {
            text += &format!("\nthe curves are in {}\n", plot.display());
        }
        text
    }
}
