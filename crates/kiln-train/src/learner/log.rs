//! `metrics.csv`, and `curves.svg` and `.png`: one row per round, and the picture of all rows. If it is asked for, an event
//! file besides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricAttributes, MetricDefinition, MetricId, NumericEntry};
use kiln_pipeline::plots::{Rows, Units, plot_curves};

use crate::counted;
use crate::error::TrainError;
use crate::event_file::EventFile;
use crate::learner::report::{LOSS, MetricKind, Reading};
use crate::learner::session::Session;
use crate::run_folder::metrics_table::{add_absent, rows_in, write_rows};
use crate::run_folder::{PICTURES, StageFolder};

/// Gathers the rounds' results and writes them.
///
/// The file has one row per round and one column per metric and split, such as `loss/train` and `loss/valid`. A number
/// that was not measured stays empty. A resumed run drops the rows after its checkpoint, because it will write them
/// again. Rows that cannot be written are kept: the next checkpoint has them, and the next round tries again.
pub(crate) struct RunLog {
    folder: StageFolder,
    title: String,
    /// The metrics that every validation measures.
    validated: Vec<&'static str>,
    session: Session,
    names: HashMap<MetricId, String>,
    /// The units by metric name, if there are any.
    units: Units,
    /// The round, and its values so far, by metric and split.
    epoch: usize,
    round: BTreeMap<(String, &'static str), f64>,
    rows: Rows,
    /// Rows that the file does not have yet.
    unwritten: Rows,
    watch: Watch,
    /// The names of what it has found.
    warned: BTreeSet<&'static str>,
    events: Option<EventFile>,
}

/// What is wrong with a training by its rows so far: a name, and a sentence. The log warns of each name once.
pub(crate) type Watch = fn(&Rows) -> Vec<(&'static str, String)>;

impl RunLog {
    /// The log of a training in `folder`. `unwritten` are the rows up to the resumed checkpoint that could not be written to
    /// the file.
    ///
    /// # Errors
    /// If an earlier part of the run left a file that is not text.
    pub(crate) fn new(
        folder: StageFolder,
        title: &str,
        metrics: &[MetricKind],
        session: Session,
        unwritten: Rows,
        watch: Watch,
        events: Option<EventFile>,
    ) -> Result<Self, TrainError> {
        let mut rows = match session.steps_done() {
            0 => Rows::new(),
            _ => rows_in(&folder.metrics())?,
        };
        add_absent(&mut rows, &unwritten);
        rows.retain(|&step, _| step <= session.steps_done());
        let metrics = metrics.iter();
        let is_in_every_validation =
            |metric: &&MetricKind| metric.reading != Reading::Figure && metric.is_always_there;
        Ok(Self {
            folder,
            title: title.into(),
            validated: metrics
                .filter(is_in_every_validation)
                .map(|metric| metric.name)
                .collect(),
            session,
            names: HashMap::new(),
            units: Units::new(),
            epoch: 0,
            round: BTreeMap::new(),
            rows,
            unwritten,
            watch,
            warned: BTreeSet::new(),
            events,
        })
    }

    /// A warning with the metrics that a complete validation could not measure.
    fn unmeasured(&self) -> Option<String> {
        let lost = |name: &&&str| {
            let value = self.round.get(&((**name).to_owned(), Split::Valid.into()));
            let is_lost = |value: &f64| match **name {
                LOSS => !value.is_finite(),
                _ => value.is_nan(),
            };
            value.is_none_or(is_lost)
        };
        let lost: Vec<&str> = self.validated.iter().filter(lost).copied().collect();
        (self.session.is_validated() && !lost.is_empty()).then(|| {
            format!(
                "the validation after {} gives no finite number for {}: metrics.csv and the curves go without, and if it stays so, the network or its average has diverged",
                counted(self.session.steps_done(), "step"),
                lost.join(", ")
            )
        })
    }

    fn write(&self) -> Result<(), TrainError> {
        write_rows(&self.folder.metrics(), &self.rows)?;
        let svg = self.folder.curves();
        for path in [svg.clone(), svg.with_extension("png")] {
            // This does not end a training: the rows are in the file.
            if let Err(error) = plot_curves(&self.title, LOSS, &self.rows, &self.units, &path) {
                tracing::warn!("the curves are not drawn: {error}");
            }
        }
        Ok(())
    }

    /// Adds the newest row and the pictures of its step to the event file.
    fn write_events(&mut self, step: usize, row: &BTreeMap<String, f64>) {
        let Some(events) = &mut self.events else {
            return;
        };
        events.scalars(step, row.iter().map(|(name, &value)| (name, value)));
        for kind in PICTURES {
            if let Ok(png) = std::fs::read(self.folder.picture(kind, step)) {
                events.picture(step, kind, png);
            }
        }
        if let Err(error) = events.flush() {
            tracing::warn!(
                "TensorBoard's event file in {} cannot be written: {error}; the next round tries again",
                self.folder.path().display()
            );
        }
    }
}

impl MetricLogger for RunLog {
    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_string();
        if let MetricAttributes::Numeric(attributes) = definition.attributes
            && let Some(unit) = attributes.unit
        {
            self.units.insert(name.clone(), unit);
        }
        self.names.insert(definition.metric_id, name);
    }

    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        if epoch != self.epoch {
            self.round.clear();
            self.epoch = epoch;
        }
        for metric in update.entries_numeric {
            let name = self.names.get(&metric.entry.metric_id);
            if let (Some(name), Some(NumericEntry::Final(value))) = (name, metric.numeric_entry) {
                self.round
                    .insert((name.clone(), split.clone().into()), value);
            }
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        _epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        let value = self.round.get(&(name.to_owned(), (split.clone()).into()));
        Ok(value
            .map(|&value| NumericEntry::Value(value))
            .into_iter()
            .collect())
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        if summary.split != Split::Valid {
            return;
        }
        // NaN means that the value was not measured. An infinite value was measured, and leaves a gap in its curve.
        let row = self.round.iter().filter(|(_, value)| !value.is_nan());
        let row: BTreeMap<String, f64> = row
            .map(|((name, split), &value)| (format!("{name}/{split}"), value))
            .collect();
        if row.is_empty() {
            return; // stopped before the first step
        }
        if !self.session.ranks().is_first() {
            return;
        }
        if let Some(warning) = self.unmeasured() {
            tracing::warn!("{warning}");
        }
        let step = self.session.steps_done();
        self.write_events(step, &row);
        // Where a resumed run began with the validation that a stop had left, the row is there and lacks what that measured.
        let known = self.rows.entry(step).or_default();
        known.extend(row);
        let mut unwritten = known.clone();
        unwritten.retain(|_, value| value.is_finite()); // JSON has only finite numbers
        self.unwritten.insert(step, unwritten);
        for (name, warning) in (self.watch)(&self.rows) {
            if self.warned.insert(name) {
                tracing::warn!("{warning}");
            }
        }
        match self.write() {
            Ok(()) => self.unwritten.clear(),
            Err(error) => {
                tracing::warn!(
                    "{error}; the row is in the checkpoint, and kiln will try to write it again"
                );
            }
        }
        self.session.set_unwritten(self.unwritten.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::session::StopSignal;

    #[test]
    fn a_validation_without_a_number_is_told_of() {
        let place = tempfile::tempdir().unwrap();
        let metrics = [
            MetricKind::new(LOSS, Reading::Mean),
            MetricKind::new("noise", Reading::Mean),
            MetricKind::new("frechet", Reading::Figure),
        ];
        let session = Session::new(4, StopSignal::default());
        let (folder, rows) = (StageFolder::new(place.path()), Rows::new());
        let watch: Watch = |_| Vec::new();
        let log = RunLog::new(folder, "", &metrics, session.clone(), rows, watch, None);
        let mut log = log.unwrap();
        let mut warning = |loss, noise| {
            for (name, value) in [(LOSS, loss), ("noise", noise), ("frechet", f64::NAN)] {
                let place = (name.to_owned(), Split::Valid.into());
                log.round.insert(place, value);
            }
            log.unmeasured()
        };
        assert_eq!(warning(f64::NAN, f64::NAN), None, "nothing was validated");
        session.set_validated(true);
        // Images are drawn and measured in some rounds only.
        assert_eq!(warning(1.0, f64::INFINITY), None);
        let lost = warning(1.0, f64::NAN).unwrap();
        assert!(
            lost.contains("after 4 steps") && lost.contains("for noise:"),
            "{lost}"
        );
        assert!(
            warning(f64::NAN, f64::NAN)
                .unwrap()
                .contains("for loss, noise:")
        );
        assert!(warning(f64::INFINITY, 1.0).unwrap().contains("for loss:"));
    }
}
