//! `kiln sweep`: one experiment with many settings, and a table of what they give.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use kiln::Devices;
use kiln::plots::plot_points;
use kiln_train::{
    GivenFirstStage, PointResults, Ranks, RunLabel, RunOptions, SweepPlan, SweepRequest,
    SweepResults, SweepStep, plan_in, sweep, write_atomically,
};

use super::git::git_revision;
use super::hub_arguments::HubArguments;
use super::numbers::{MANY, whole};
use super::runs::COLUMNS;
use super::training::overrides;
use crate::interrupts::stop_on_interrupt;
use crate::table::Table;
use crate::terminal::{self, DataProgress};

/// Groups of the help.
const POINTS: &str = "What to try";
const JUDGEMENT: &str = "How to judge";

/// Train an experiment with many settings, and compare what they give.
///
/// Each run is an ordinary run folder within --out. Ctrl-C saves the run under way; --resume goes on with the sweep. At the
/// end the folder has the table in results.md and results.json, and a plot in results.svg.
#[derive(Args)]
#[command(after_help = "Examples:
  kiln sweep --config configs/mnist-quick.toml --set stage_2.training.learning_rate=1e-4,3e-4,1e-3 --seeds 3
  kiln sweep --config configs/mnist-quick.toml --set stage_2.training.learning_rate=1e-5..1e-2 --set stage_2.training.checkpoint_every=100 --random 16 --halving 2 --out sweeps/rate
  kiln sweep --config a.toml --config b.toml --first-stage --maximize psnr/valid
  kiln sweep --resume --out sweeps/rate")]
pub struct RunSweep {
    /// The experiment: a TOML file like those in configs/; several are compared with each other
    #[arg(long, help_heading = POINTS, value_name = "FILE", required_unless_present = "resume")]
    config: Vec<PathBuf>,

    /// A setting of all runs, KEY=VALUE, or what to try, KEY=A,B,C or KEY=LOW..HIGH; may be repeated
    #[arg(long, help_heading = POINTS, value_name = "KEY=VALUE[,VALUE..]", requires = "config")]
    set: Vec<String>,

    /// Draw this many points at random instead of trying all combinations; between bounds that are positive and a factor
    /// of 10 or more apart, as many numbers in each power of ten
    #[arg(long, help_heading = POINTS, value_name = "N", requires = "config", value_parser = whole::<usize>(1..=MANY, 16))]
    random: Option<usize>,

    /// Train each point with this many seeds: that of the experiment and the next ones [default: 1]
    #[arg(long, help_heading = POINTS, value_name = "N", requires = "config", value_parser = whole::<usize>(1..=1000, 3))]
    seeds: Option<usize>,

    /// Train the first stage alone, not the whole model
    #[arg(long, help_heading = POINTS, requires = "config")]
    first_stage: bool,

    /// A trained first stage for all runs of latent diffusion [default: one is trained for all runs that differ in nothing it learns]
    #[arg(long, help_heading = POINTS, value_name = "PATH|ORG/REPO[@REVISION]", conflicts_with = "first_stage")]
    vqvae: Option<PathBuf>,

    /// Where the data set is, here or on the Hub; overrides data.path of the config
    #[arg(long, help_heading = POINTS, value_name = "PATH|hf:ORG/DATASET[:[CONFIGURATION/]SPLIT]", requires = "config")]
    data: Option<PathBuf>,

    /// The column of metrics.csv whose smallest value is the best [default: loss/valid]
    #[arg(long, help_heading = JUDGEMENT, value_name = "COLUMN")]
    minimize: Option<String>,

    /// The column whose largest value is the best, instead
    #[arg(long, help_heading = JUDGEMENT, value_name = "COLUMN", conflicts_with = "minimize")]
    maximize: Option<String>,

    /// Successive halving: all points train for a part of the steps, and the best one in N of them for N times as many, until
    /// one is left
    #[arg(long, help_heading = JUDGEMENT, value_name = "N", requires = "config", value_parser = whole::<usize>(2..=1000, 2))]
    halving: Option<usize>,

    /// The folder of the sweep [default: sweeps/ and the config's name]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Go on with the sweep in --out, which must be named
    #[arg(long)]
    resume: bool,

    /// Where to compute: cpu, cpu:2 (two replicas), cuda:0,cuda:1, rocm:0, metal or wgpu
    #[arg(long, default_value = "cpu", value_name = "DEVICES")]
    devices: String,

    #[command(flatten)]
    hub: HubArguments,

    /// Print one JSON object on stdout instead of a table
    #[arg(long)]
    json: bool,
}

impl RunSweep {
    pub fn run(self) -> anyhow::Result<()> {
        let ranks = Ranks::of_this_process()?;
        if !ranks.is_alone() {
            bail!("a sweep is one process: start it without mpirun");
        }
        let out = match (&self.out, self.config.first()) {
            (Some(out), _) => out.clone(),
            (None, Some(config)) => {
                Path::new("sweeps").join(config.file_stem().unwrap_or("sweep".as_ref()))
            }
            (None, None) => bail!(
                "name the folder of the sweep to resume with --out; without --config there is no default"
            ),
        };
        let vqvae = self.vqvae.as_deref();
        let vqvae = vqvae.map(|place| self.hub.first_stage(place)).transpose()?;
        let vqvae = vqvae
            .map(|folder| GivenFirstStage::of(&folder))
            .transpose()?;
        let plan = match self.config.is_empty() {
            true => self.known_plan(&out, vqvae)?,
            false => SweepPlan::of(&self.request(vqvae)?)?,
        };
        refuse_files_of_others(&out)?;
        let options = RunOptions {
            resume: self.resume,
            hub: self.hub.settings(),
            devices: Devices::parse(&self.devices)?,
            label: RunLabel {
                revisions: git_revision().into_iter().collect(),
                ..RunLabel::default()
            },
            stop: stop_on_interrupt(&ranks)?,
            ..RunOptions::new(&out)
        };
        let Some(results) = sweep(&plan, &options, &DataProgress::default(), &tell)? else {
            bail!(
                "the sweep was stopped: `kiln sweep --resume --out {}` goes on with it",
                out.display()
            );
        };
        let table = table_of(&results);
        let json = serde_json::to_string_pretty(&results)?;
        let [words, numbers, plot] = RESULTS.map(|name| out.join(name));
        write_atomically(&words, table.to_markdown(usize::MAX).as_bytes())?;
        write_atomically(&numbers, json.as_bytes())?;
        let values = |point: &PointResults| (point.name.clone(), point.values(&results.metric));
        let points: Vec<_> = results.points.iter().map(values).collect();
        plot_points(&results.metric, &points, &plot)?;
        terminal::print_outcome(&results, self.json, |_| {
            format!(
                "{}\nthe table, its numbers and a plot are in {}: results.md, .json and .svg",
                table.to_markdown(terminal::width()),
                out.display()
            )
        })
    }

    /// The column to judge by, if one was named.
    fn metric(&self) -> Option<&str> {
        self.maximize.as_deref().or(self.minimize.as_deref())
    }

    /// The plan of the sweep in `out`, perhaps judged by another column.
    fn known_plan(&self, out: &Path, vqvae: Option<GivenFirstStage>) -> anyhow::Result<SweepPlan> {
        let plan = plan_in(out)?.with_context(|| {
            format!(
                "{} has no sweep to resume: start one with --config",
                out.display()
            )
        })?;
        let plan = match vqvae {
            Some(given) => plan.with_first_stage(given)?,
            None => plan,
        };
        match self.metric() {
            Some(metric) => Ok(plan.judged_by(metric, self.maximize.is_some())?),
            None => Ok(plan),
        }
    }

    fn request(&self, vqvae: Option<GivenFirstStage>) -> anyhow::Result<SweepRequest> {
        let stem = |path: &PathBuf| path.file_stem().unwrap_or(path.as_os_str()).to_owned();
        let stems: BTreeSet<_> = self.config.iter().map(stem).collect();
        let read = |path: &PathBuf| {
            // Files of one name in several folders are told apart by these.
            let name = match stems.len() == self.config.len() {
                true => stem(path),
                false => path.with_extension("").into_os_string(),
            };
            let text = kiln_data::read_text(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::Ok((name.to_string_lossy().into_owned(), text))
        };
        Ok(SweepRequest {
            configs: self.config.iter().map(read).collect::<Result<_, _>>()?,
            set: overrides(&self.set, self.data.as_deref()),
            random: self.random,
            seeds: self.seeds.unwrap_or(1),
            only_first_stage: self.first_stage,
            halving: self.halving,
            metric: self.metric().unwrap_or("loss/valid").to_owned(),
            maximize: self.maximize.is_some(),
            vqvae,
        })
    }
}

/// What a sweep leaves in its folder, besides its runs.
const RESULTS: [&str; 3] = ["results.md", "results.json", "results.svg"];

/// Refuses a folder without a sweep that has files of the names of a sweep's results.
fn refuse_files_of_others(out: &Path) -> anyhow::Result<()> {
    let mut files = RESULTS.iter().map(|name| out.join(name));
    match files.find(|file| file.exists()) {
        Some(file) if plan_in(out)?.is_none() => bail!(
            "{} is there already, and not from a sweep: choose another --out",
            file.display()
        ),
        _ => Ok(()),
    }
}

/// Says which run begins.
fn tell(step: &SweepStep<'_>) {
    let [number, of] = step.number;
    let rung = match step.rung {
        [_, 1] => String::new(),
        [rung, rungs] => format!(", rung {rung} of {rungs}"),
    };
    let before = match step.is_done {
        true => ", trained before",
        false => "",
    };
    terminal::note(&format!(
        "run {number} of {of}{rung}: {}, in {}{before}",
        step.name,
        step.folder.display()
    ));
}

fn table_of(results: &SweepResults) -> Table {
    let known = results.columns();
    let besides = COLUMNS.into_iter().filter(|column| {
        column.ends_with("/valid") && known.contains(column) && *column != results.metric
    });
    let columns: Vec<&str> = [results.metric.as_str()]
        .into_iter()
        .chain(besides)
        .collect();
    let header = ["point"].into_iter().chain(columns.iter().copied());
    let header = header.chain(["steps", "seeds", "s a step"]);
    let mut table = Table::new(header.map(str::to_owned));
    for point in &results.points {
        let mut row = vec![point.name.clone()];
        row.extend(columns.iter().map(|column| with_spread(point, column)));
        let steps = point.runs.iter().map(|run| run.steps).max();
        row.push(steps.unwrap_or_default().to_string());
        row.push(point.runs.len().to_string());
        let times: Vec<f64> = point
            .runs
            .iter()
            .filter_map(|run| run.seconds_a_step)
            .collect();
        row.push(match times.is_empty() {
            true => String::new(),
            false => format!("{:.3}", times.iter().sum::<f64>() / times.len() as f64),
        });
        table.push(row);
    }
    table
}

/// The mean over the seeds and, for several, the standard deviation.
fn with_spread(point: &PointResults, column: &str) -> String {
    match (point.mean(column), point.spread(column)) {
        (Some(mean), Some(spread)) => format!("{mean:.4} ± {spread:.4}"),
        (Some(mean), None) => format!("{mean:.4}"),
        (None, _) => match point.values(column).len() {
            0 => String::new(),
            whole => format!(
                "{} of {} diverged",
                point.runs.len() - whole,
                point.runs.len()
            ),
        },
    }
}
