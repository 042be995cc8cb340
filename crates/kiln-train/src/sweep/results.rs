//! What became of a sweep's runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::halving::worse;
use super::plan::{SweepPlan, Trial};
use crate::counted;
use crate::error::TrainError;
use crate::learner::plan::steps_of_share;
use crate::run_folder::overview::{RunOverview, RunState};
use crate::run_folder::record::StageRecord;

/// The results of a sweep.
#[derive(Debug, Clone, Serialize)]
pub struct SweepResults {
    /// The column of `metrics.csv` that the points are judged by.
    pub metric: String,
    /// Whether higher is better.
    pub maximize: bool,
    /// The points, the best first.
    pub points: Vec<PointResults>,
}

/// The results of one point.
#[derive(Debug, Clone, Serialize)]
pub struct PointResults {
    #[serde(skip)]
    point: usize,
    /// The point, in words.
    pub name: String,
    /// The share of its steps that it was judged after. With successive halving only the best points reach 1.
    pub share: f64,
    /// Its runs, by seed.
    pub runs: Vec<RunResults>,
}

/// The results of one run.
#[derive(Debug, Clone, Serialize)]
pub struct RunResults {
    /// The run folder.
    pub folder: PathBuf,
    /// The steps after which it was judged.
    pub steps: usize,
    /// The newest values up to then by column, such as `loss/valid`.
    pub newest: BTreeMap<String, f64>,
    /// All columns up to then, also those whose values are not finite.
    #[serde(skip)]
    columns: BTreeSet<String>,
    /// Seconds for a step, if known.
    pub seconds_a_step: Option<f64>,
}

impl SweepResults {
    pub(super) fn new(plan: &SweepPlan) -> Self {
        Self {
            metric: plan.metric.clone(),
            maximize: plan.maximize,
            points: Vec::new(),
        }
    }

    /// Refuses a metric that a trained run has not.
    pub(super) fn require_metric(
        &self,
        plan: &SweepPlan,
        trial: Trial,
        share: f64,
        folder: &Path,
    ) -> Result<(), TrainError> {
        let RunResults {
            newest,
            steps,
            columns,
            folder,
            ..
        } = RunResults::read(plan, trial, share, folder)?;
        if columns.is_empty() {
            return Err(TrainError::Run(format!(
                "{} was trained, but its metrics.csv has no results: put the file back, or delete this folder to train the run again",
                folder.display()
            )));
        }
        if columns.contains(&self.metric) {
            return Ok(());
        }
        let known: Vec<&str> = newest.keys().map(String::as_str).collect();
        Err(TrainError::Run(format!(
            "the runs have no column `{}` after {} to be judged by; they have {}: name one of these by --minimize or --maximize, with --resume",
            self.metric,
            counted(steps, "step"),
            known.join(", ")
        )))
    }

    /// Reads the results of a point's runs in the sweep's `folder` after this `share` of their steps.
    pub(super) fn read(
        &mut self,
        plan: &SweepPlan,
        point: usize,
        share: f64,
        folder: &Path,
    ) -> Result<(), TrainError> {
        let mut runs = Vec::new();
        for trial in plan.trials_of(point) {
            runs.push(RunResults::read(plan, trial, share, folder)?);
        }
        self.points.retain(|known| known.point != point);
        self.points.push(PointResults {
            point,
            name: plan.name(point),
            share,
            runs,
        });
        let (metric, maximize) = (&self.metric, self.maximize);
        self.points.sort_by(|one, other| {
            let worse = |point: &PointResults| worse(point.mean(metric), maximize);
            let by_share = other.share.total_cmp(&one.share);
            by_share.then(worse(one).total_cmp(&worse(other)))
        });
        Ok(())
    }

    /// The mean over the seeds of the metric that a point is judged by.
    pub(super) fn mean(&self, point: usize) -> Option<f64> {
        let mut points = self.points.iter();
        points
            .find(|known| known.point == point)?
            .mean(&self.metric)
    }

    /// The columns of all runs.
    pub fn columns(&self) -> BTreeSet<&str> {
        let runs = self.points.iter().flat_map(|point| &point.runs);
        runs.flat_map(|run| run.newest.keys().map(String::as_str))
            .collect()
    }
}

impl PointResults {
    /// The values of a column, by seed, of the runs that have it.
    pub fn values(&self, column: &str) -> Vec<f64> {
        let values = self.runs.iter().filter_map(|run| run.newest.get(column));
        values.copied().collect()
    }

    /// The mean over the seeds; `None` if a run has no value, because it diverged.
    pub fn mean(&self, column: &str) -> Option<f64> {
        let values = self.values(column);
        let is_whole = !values.is_empty() && values.len() == self.runs.len();
        is_whole.then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The standard deviation over the seeds, of a sample; `None` for a single one.
    pub fn spread(&self, column: &str) -> Option<f64> {
        let (mean, values) = (self.mean(column)?, self.values(column));
        let squares = values.iter().map(|value| (value - mean).powi(2));
        (values.len() > 1).then(|| (squares.sum::<f64>() / (values.len() - 1) as f64).sqrt())
    }
}

impl RunResults {
    /// Reads the results of a run in the sweep's `folder` after this `share` of its steps; empty if it has not come so far.
    pub(super) fn read(
        plan: &SweepPlan,
        trial: Trial,
        share: f64,
        folder: &Path,
    ) -> Result<Self, TrainError> {
        let folder = folder.join(plan.folder(trial));
        let overview = RunOverview::of(&folder);
        if let Some(RunState::Damaged(damage)) = overview.as_ref().map(|run| &run.state) {
            let place = folder.display();
            return Err(TrainError::Run(format!("{place} is damaged: {damage}")));
        }
        let stage = overview.and_then(|run| run.stages.into_iter().next_back());
        Ok(Self::of(folder, share, stage.as_ref()))
    }

    /// Whether the run has come so far.
    pub(super) fn is_there(&self) -> bool {
        !self.columns.is_empty()
    }

    fn of(folder: PathBuf, share: f64, stage: Option<&StageRecord>) -> Self {
        let mut results = Self {
            folder,
            steps: 0,
            newest: BTreeMap::new(),
            columns: BTreeSet::new(),
            seconds_a_step: None,
        };
        let Some(stage) = stage else {
            return results;
        };
        // A stop within a round leaves a row without a validation.
        let is_validated =
            |row: &BTreeMap<String, f64>| row.keys().any(|column| column.ends_with("/valid"));
        let mut rows = stage
            .rows
            .range(steps_of_share(share, stage.training.steps)..);
        let Some((&end, _)) = rows.find(|(_, row)| is_validated(row)) else {
            return results; // not there yet, or diverged
        };
        for (&step, row) in stage.rows.range(..=end) {
            results.steps = step;
            results.columns.extend(row.keys().cloned());
            let finite = row.iter().filter(|(_, value)| value.is_finite());
            let cells = finite.map(|(column, &value)| (column.clone(), value));
            results.newest.extend(cells);
        }
        results.seconds_a_step = stage.step_time().map(|time| time.as_secs_f64());
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(values: &[Option<f64>]) -> PointResults {
        let run = |value: &Option<f64>| RunResults {
            folder: PathBuf::new(),
            steps: 1,
            newest: (value.iter())
                .map(|&value| ("loss/valid".to_owned(), value))
                .collect(),
            columns: BTreeSet::new(),
            seconds_a_step: None,
        };
        PointResults {
            point: 0,
            name: String::new(),
            share: 1.0,
            runs: values.iter().map(run).collect(),
        }
    }

    #[test]
    fn the_spread_is_that_of_a_sample_and_a_diverged_run_leaves_no_mean() {
        let three = point(&[Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(three.mean("loss/valid"), Some(2.0));
        assert_eq!(three.spread("loss/valid"), Some(1.0));
        assert_eq!(three.mean("psnr/valid"), None);
        let diverged = point(&[Some(1.0), None]);
        assert_eq!(diverged.mean("loss/valid"), None);
        assert_eq!(diverged.spread("loss/valid"), None);
        assert_eq!(point(&[Some(1.0)]).spread("loss/valid"), None);
    }
}
