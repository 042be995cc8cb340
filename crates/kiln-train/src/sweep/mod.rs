//! Sweeps: one experiment with many settings, each run in a folder of its own.
//!
//! ```text
//! sweeps/rates/
//!   sweep.json                      the plan
//!   000-learning_rate=1e-4,seed=0/  an ordinary run folder
//!   first-stages/000-as_it_is/      of latent diffusion: the first stages, each for all runs that differ in nothing that it learns
//! ```
//!
//! | file | about |
//! | --- | --- |
//! | `space` | what is varied, and the points in it |
//! | `plan` | the runs |
//! | `halving` | which points go on |
//! | `results` | what became of them |

mod halving;
pub mod plan;
pub mod results;
mod space;

use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use kiln_data::{FolderLock, Progress, read_regular};

use self::halving::{best, rungs};
use self::plan::{GivenFirstStage, SweepPlan, Swept, Trial};
use self::results::{RunResults, SweepResults};
use crate::error::TrainError;
use crate::experiment::{Experiment, Interval};
use crate::learner::plan::steps_of_share;
use crate::learner::report::MetricKind;
use crate::run_folder::changed_keys::{OF_STAGE_1, require_same_keys};
use crate::run_folder::checkpoints::CheckpointFolder;
use crate::run_folder::{RunFolder, StageFolder, write_atomically};
use crate::script::options::RunOptions;
use crate::script::training_report::TrainingReport;
use crate::stages::{train_classifier, train_diffusion, train_latent_diffusion, train_vqvae};
use crate::{classifier, denoising, first_stage};

/// The plan's file in the folder of a sweep.
const PLAN: &str = "sweep.json";

/// Many times the size of a plan, in bytes.
const LARGEST: u64 = 64 << 20;

/// The plan of the sweep in `folder`; `None` if there is none.
///
/// # Errors
/// If its file cannot be read.
pub fn plan_in(folder: &Path) -> Result<Option<SweepPlan>, TrainError> {
    let file = folder.join(PLAN);
    let bytes = match read_regular(&file, LARGEST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(TrainError::file("read", &file))?,
    };
    let refuse = |problem: String| {
        TrainError::Run(format!(
            "{} is not the plan of a sweep: {problem}",
            file.display()
        ))
    };
    let plan: SweepPlan =
        serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    plan.check().map_err(|error| refuse(error.to_string()))?;
    Ok(Some(plan))
}

/// A run of a sweep that is about to train.
#[derive(Debug)]
pub struct SweepStep<'a> {
    /// The number of this training, from 1, and of all trainings of the rung.
    pub number: [usize; 2],
    /// The number of the rung, from 1, and of all rungs.
    pub rung: [usize; 2],
    /// The point, in words.
    pub name: &'a str,
    /// Its folder.
    pub folder: &'a Path,
    /// Whether it has come so far before.
    pub is_done: bool,
}

/// Trains what is left of the sweep in `options.out`, tells `tell` of each run, and returns the results; `None` if it was
/// stopped, and can be resumed.
///
/// # Errors
/// [`TrainError`] if the folder belongs to something else or to another process, or if a training fails. One that
/// diverges does not end a sweep: it has no result.
pub fn sweep(
    plan: &SweepPlan,
    options: &RunOptions,
    progress: &dyn Progress,
    tell: &dyn Fn(&SweepStep<'_>),
) -> Result<Option<SweepResults>, TrainError> {
    let folder = &options.out;
    let place = folder.display();
    let shares = rungs(plan.points(), plan.halving);
    require_pauses(plan, &shares)?;
    require_column(plan)?;
    let before = plan_in(folder)?;
    match (&before, options.resume) {
        (Some(_), false) => {
            return Err(TrainError::Run(format!(
                "{place} already holds a sweep: add --resume to go on with it, or choose another --out"
            )));
        }
        (Some(before), true) if !plan.has_the_runs_of(before) => {
            return Err(TrainError::Run(format!(
                "{place} holds another sweep: go on with `--resume --out {place}` alone, or choose another --out"
            )));
        }
        (None, _) if RunFolder::new(folder).is_ours() => {
            return Err(TrainError::Run(format!(
                "{place} is the folder of a run: choose another --out"
            )));
        }
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(TrainError::file("make the folder", folder))?;
    let _lock = match FolderLock::try_take(folder) {
        Ok(lock) => Some(lock),
        Err(TryLockError::Error(_)) => None,
        Err(TryLockError::WouldBlock) => {
            return Err(TrainError::Run(format!(
                "another kiln is at work on {place} at this moment: wait until it ends, or choose another --out"
            )));
        }
    };
    if before.is_none() {
        write_plan(plan, folder)?;
    }

    let mut results = SweepResults::new(plan);
    let mut left: Vec<usize> = (0..plan.points()).collect();
    for (rung, &share) in shares.iter().enumerate() {
        let trials: Vec<Trial> = (left.iter())
            .flat_map(|&point| plan.trials_of(point))
            .collect();
        for (number, &trial) in trials.iter().enumerate() {
            let is_done = RunResults::read(plan, trial, share, folder)?.is_there();
            tell(&SweepStep {
                number: [number + 1, trials.len()],
                rung: [rung + 1, shares.len()],
                name: &plan.name(trial.point),
                folder: &folder.join(plan.folder(trial)),
                is_done,
            });
            // A whole run is looked at even then: its model may be missing.
            let trained = match is_done && share < 1.0 {
                true => Ok(()),
                false => train(plan, trial, share, options, progress),
            };
            match trained {
                Ok(()) => results.require_metric(plan, trial, share, folder)?,
                Err(TrainError::Diverged { .. }) => {}
                Err(TrainError::Stopped) => return Ok(None),
                Err(error) => return Err(error),
            }
            if options.stop.is_requested() {
                return Ok(None);
            }
        }
        for &point in &left {
            results.read(plan, point, share, folder)?;
        }
        if let Some(keep) = plan.halving
            && share < 1.0
        {
            let judged: Vec<_> = (left.iter())
                .map(|&point| (point, results.mean(point)))
                .collect();
            left = best(&judged, plan.maximize, keep);
            left.sort_unstable();
        }
    }
    // The column that it is judged by may be another one, now that it is known to be there.
    write_plan(plan, folder)?;
    Ok(Some(results))
}

/// Refuses rungs that end at the same step, because a run pauses only where it makes a checkpoint.
fn require_pauses(plan: &SweepPlan, shares: &[f64]) -> Result<(), TrainError> {
    let Some(trial) = plan.trials().next() else {
        return Ok(());
    };
    let (training, key) = match &plan.experiment(trial)? {
        Swept::Classifier(of) => (of.training.clone(), "training"),
        Swept::Models(of) => match &of.first_stage {
            Some(stage) if plan.is_only_first_stage() => {
                (stage.stage_1.training.clone(), "stage_1.training")
            }
            _ => (of.stage_2.training.clone(), "stage_2.training"),
        },
    };
    let Interval::Every(round) = training.checkpoint_every else {
        return Ok(()); // A share of the data, which is not known yet.
    };
    let end = |share: f64| {
        let steps = steps_of_share(share, training.steps);
        steps.next_multiple_of(round.max(1)).min(training.steps)
    };
    match shares.windows(2).find(|pair| end(pair[0]) == end(pair[1])) {
        Some(pair) => Err(TrainError::Run(format!(
            "two parts of --halving would end at step {}, because a run pauses only where it makes a checkpoint: add --set {key}.checkpoint_every={}",
            end(pair[1]),
            steps_of_share(shares[0], training.steps).max(1)
        ))),
        None => Ok(()),
    }
}

/// Refuses to judge by a column that no run will have.
fn require_column(plan: &SweepPlan) -> Result<(), TrainError> {
    for trial in plan.first_trials() {
        let metrics = match plan.experiment(trial)? {
            Swept::Classifier(_) => classifier::METRICS.to_vec(),
            Swept::Models(of) => match &of.first_stage {
                Some(stage) if plan.is_only_first_stage() => first_stage::metrics_by_config(stage)?,
                _ => denoising::metrics(&of.stage_2),
            },
        };
        let columns: Vec<String> = metrics.iter().flat_map(MetricKind::columns).collect();
        if !columns.contains(&plan.metric) {
            return Err(TrainError::Run(format!(
                "`{}` will have no column `{}` to be judged by: name one of {} by --minimize or --maximize",
                plan.name(trial.point),
                plan.metric,
                columns.join(", ")
            )));
        }
    }
    Ok(())
}

fn write_plan(plan: &SweepPlan, folder: &Path) -> Result<(), TrainError> {
    let file = folder.join(PLAN);
    let text = serde_json::to_string_pretty(plan).map_err(std::io::Error::from);
    let text = text.map_err(TrainError::file("write", &file))?;
    write_atomically(&file, text.as_bytes())
}

/// Trains one run up to `share` of its steps.
fn train(
    plan: &SweepPlan,
    trial: Trial,
    share: f64,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<(), TrainError> {
    let report = train_to(plan, trial, share, options, progress)?;
    match report.steps < steps_of_share(share, report.of_steps) {
        true => Err(TrainError::Stopped),
        false => Ok(()),
    }
}

fn train_to(
    plan: &SweepPlan,
    trial: Trial,
    share: f64,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<TrainingReport, TrainError> {
    let out = options.out.join(plan.folder(trial));
    let run = RunFolder::new(&out);
    let of = |stage: StageFolder| {
        options.stop.for_the_next();
        RunOptions {
            resume: has_begun(&stage),
            pause_after: (share < 1.0).then_some(share),
            out: out.clone(),
            ..options.clone()
        }
    };
    match plan.experiment(trial)? {
        Swept::Classifier(experiment) => {
            train_classifier(&experiment, &of(run.classifier()), progress)
        }
        Swept::Models(experiment) if experiment.first_stage.is_none() => {
            train_diffusion(&experiment, &of(run.stage_2()), progress)
        }
        Swept::Models(experiment) if plan.is_only_first_stage() => {
            train_vqvae(&experiment, &of(run.stage_1()), progress)
        }
        Swept::Models(experiment) => {
            let vqvae = match &plan.vqvae {
                Some(given) => {
                    let found = GivenFirstStage::of(&given.folder)?;
                    if found.hash != given.hash {
                        return Err(TrainError::Run(format!(
                            "the first stage in {} is not the one that the sweep began with: put it back, or name its new place with --vqvae",
                            given.folder.display()
                        )));
                    }
                    found.folder
                }
                None => first_stage(plan, trial, options, progress)?,
            };
            let options = RunOptions {
                vqvae: Some(vqvae),
                ..of(run.stage_2())
            };
            train_latent_diffusion(&experiment, &options, progress)
        }
    }
}

/// Trains the first stage for a run of latent diffusion, unless it is there. Returns its folder.
fn first_stage(
    plan: &SweepPlan,
    trial: Trial,
    options: &RunOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, TrainError> {
    let out = options.out.join(plan.first_stage_folder(trial));
    let run = RunFolder::new(&out);
    let folder = run.stage_1();
    let Swept::Models(experiment) = plan.of_first_stage(trial)? else {
        return Err(TrainError::NoFirstStage);
    };
    if folder.model().exists() {
        let before = Experiment::load(&run.config(), &[])?.to_toml()?;
        require_same_keys(OF_STAGE_1, &before, &experiment.to_toml()?)?;
    } else {
        options.stop.for_the_next();
        let options = RunOptions {
            resume: has_begun(&folder),
            out,
            ..options.clone()
        };
        if train_vqvae(&experiment, &options, progress)?.interrupted {
            return Err(TrainError::Stopped);
        }
    }
    Ok(folder.model())
}

fn has_begun(stage: &StageFolder) -> bool {
    let checkpoints = CheckpointFolder::new(stage.checkpoints());
    !checkpoints.steps().is_empty()
}
