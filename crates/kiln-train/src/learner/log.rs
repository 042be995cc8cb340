//! `metrics.csv`, and `curves.svg` and `.png`: one row per round, and the picture of all rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricAttributes, MetricDefinition, MetricId, NumericEntry};

use kiln_data::read_regular;

use crate::counted;
use crate::error::TrainError;
use crate::learner::report::{LOSS, MetricKind, Reading};
use crate::learner::session::Session;
use crate::run_folder::write_atomically;
use kiln_pipeline::plots::{Rows, Units, plot_curves};

/// Many times the size of any table of metrics, in bytes.
const LARGEST: u64 = 256 << 20;

/// Gathers the rounds' results and writes them.
///
/// The file has one row per round and one column per metric and split, such as `loss/train` and `loss/valid`. A number
/// that was not measured stays empty. A resumed run drops the rows after its checkpoint, because it will write them
/// again. Rows that cannot be written are kept: the next checkpoint has them, and the next round tries again.
pub(crate) struct RunLog {
    csv: PathBuf,
    svg: PathBuf,
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
}

impl RunLog {
    /// `unwritten` are the rows up to the resumed checkpoint that could not be written to the file.
    ///
    /// # Errors
    /// If an earlier part of the run left a file that is not text.
    pub(crate) fn new(
        csv: PathBuf,
        svg: PathBuf,
        title: &str,
        metrics: &[MetricKind],
        session: Session,
        unwritten: Rows,
    ) -> Result<Self, TrainError> {
        let mut rows = match session.steps_done() {
            0 => Rows::new(),
            _ => rows_in(&csv)?,
        };
        add_absent(&mut rows, &unwritten);
        rows.retain(|&step, _| step <= session.steps_done());
        let metrics = metrics.iter();
        let is_in_every_validation =
            |metric: &&MetricKind| metric.reading != Reading::Figure && metric.is_always_there;
        Ok(Self {
            csv,
            svg,
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
        write_atomically(&self.csv, to_csv(&self.rows).as_bytes())?;
        for path in [self.svg.clone(), self.svg.with_extension("png")] {
            // This does not end a training: the rows are in the file.
            if let Err(error) = plot_curves(&self.title, LOSS, &self.rows, &self.units, &path) {
                tracing::warn!("the curves are not drawn: {error}");
            }
        }
        Ok(())
    }
}

/// Adds the missing ones of `rows` to the file `csv`.
///
/// # Errors
/// If the file cannot be read or written.
pub(crate) fn add_rows(csv: &Path, rows: &Rows) -> Result<(), TrainError> {
    let mut all = rows_in(csv)?;
    add_absent(&mut all, rows);
    write_atomically(csv, to_csv(&all).as_bytes())
}

/// Adds the cells that are not there yet.
fn add_absent(rows: &mut Rows, more: &Rows) {
    for (&step, cells) in more {
        let row = rows.entry(step).or_default();
        for (name, &value) in cells {
            row.entry(name.clone()).or_insert(value);
        }
    }
}

fn to_csv(rows: &Rows) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for row in rows.values() {
        columns.extend(
            row.keys()
                .filter(|name| !columns.contains(name))
                .collect::<Vec<_>>(),
        );
    }
    let mut text = "step".to_owned();
    columns.iter().for_each(|name| text.extend([",", name]));
    text.push('\n');
    for (step, row) in rows {
        text.push_str(&step.to_string());
        for name in &columns {
            text.push(',');
            if let Some(value) = row.get(*name) {
                text.push_str(&value.to_string());
            }
        }
        text.push('\n');
    }
    text
}

/// The rows in a file; a missing file has none.
///
/// # Errors
/// If the file cannot be read, or is not a table of numbers in this module's format. Writing it again would lose its
/// content.
pub(crate) fn rows_in(csv: &Path) -> Result<Rows, TrainError> {
    let bytes = match read_regular(csv, LARGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Rows::new()),
        other => other.map_err(TrainError::file("read", csv))?,
    };
    let text = String::from_utf8(bytes).map_err(|_| "it is not text in UTF-8".to_owned());
    let rows = text.and_then(|text| parse_rows(&text));
    rows.map_err(|problem| TrainError::Metrics {
        path: csv.to_owned(),
        problem,
    })
}

/// The letters of a cell that a message shows.
const SHOWN: usize = 60;

/// What is in a cell, in quotes.
fn shown(cell: &str) -> String {
    match cell.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &cell[..end]),
        None => format!("{cell:?}"),
    }
}

/// The rows in the text of a file, or what is wrong with it. Each line has all its cells, empty or not, and ends in a newline:
/// what has not was cut off, and its last number with it.
fn parse_rows(text: &str) -> Result<Rows, String> {
    let mut lines = text.lines();
    let Some(columns) = lines.next() else {
        return Ok(Rows::new());
    };
    let mut columns = columns.split(',');
    if columns.next() != Some("step") {
        return Err("its first line does not begin with `step,`".to_owned());
    }
    let columns: Vec<&str> = columns.map(str::trim).collect();
    let mut names = BTreeSet::from(["step"]);
    if let Some(twice) = columns.iter().find(|name| !names.insert(**name)) {
        return Err(format!(
            "its first line has the column {} twice",
            shown(twice)
        ));
    }
    if !text.ends_with('\n') {
        return Err("its last line is cut off".to_owned());
    }
    let mut rows = Rows::new();
    for (line, number) in lines.zip(2..).filter(|(line, _)| !line.trim().is_empty()) {
        let wrong =
            |cell: &str| format!("line {number} has {} where a number belongs", shown(cell));
        let mut cells = line.split(',').map(str::trim);
        let step = cells.next().unwrap_or_default();
        let step = step.parse().map_err(|_| wrong(step))?;
        let cells: Vec<&str> = cells.collect();
        if cells.len() > columns.len() {
            return Err(format!("line {number} has more cells than the first line"));
        }
        if cells.len() < columns.len() {
            return Err(format!("line {number} has fewer cells than the first line"));
        }
        let mut row = BTreeMap::new();
        for (name, cell) in columns
            .iter()
            .zip(cells)
            .filter(|(_, cell)| !cell.is_empty())
        {
            let value = cell.parse().map_err(|_| wrong(cell))?;
            row.insert(name.to_string(), value);
        }
        if rows.insert(step, row).is_some() {
            return Err(format!("line {number} has step {step} again"));
        }
    }
    Ok(rows)
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
        // Where a resumed run began with the validation that a stop had left, the row is there and lacks what that measured.
        let known = self.rows.entry(step).or_default();
        known.extend(row);
        let mut unwritten = known.clone();
        unwritten.retain(|_, value| value.is_finite()); // JSON has only finite numbers
        self.unwritten.insert(step, unwritten);
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
    fn what_is_written_is_read() {
        let mut rows = Rows::new();
        let row = |cells: &[(&str, f64)]| {
            let cells = cells.iter().map(|&(name, value)| (name.to_owned(), value));
            cells.collect::<BTreeMap<_, _>>()
        };
        rows.insert(
            10,
            row(&[("loss/train", 0.1), ("loss/valid", f64::INFINITY)]),
        );
        rows.insert(20, row(&[("loss/train", 1e-12)]));
        rows.insert(30, row(&[("psnr/valid", 24.5)]));
        let text = to_csv(&rows);
        assert_eq!(parse_rows(&text).unwrap(), rows);
        assert_eq!(parse_rows(&text.replace('\n', "\r\n")).unwrap(), rows);
        assert_eq!(parse_rows("").unwrap(), Rows::new());
    }

    #[test]
    fn nothing_of_a_file_is_passed_over() {
        for (text, words) in [
            ("step;loss/train\n10;0.5\n", "begin with `step,`"),
            ("10,0.5\n", "begin with `step,`"),
            ("step,loss/train\n10,0.5\nten,0.4\n", "line 3 has \"ten\""),
            ("step,loss/train\n10,\"0,5\"\n", "line 2 has more cells"),
            ("step,loss/train\n10,half\n", "line 2 has \"half\""),
            (
                "step,loss/train\n10,0.5\n20,0.4",
                "its last line is cut off",
            ),
            ("step,loss/tr", "its last line is cut off"),
            (
                "step,loss/train,step\n10,0.5,20\n",
                "the column \"step\" twice",
            ),
            (
                "step,loss/train,loss/valid\n10,0.5\n20,0.4,0.3\n",
                "line 2 has fewer cells",
            ),
            (
                "step,loss/train,loss/valid,loss/train\n10,0.5,,0.3\n",
                "the column \"loss/train\" twice",
            ),
            ("step,loss/train\n10;0.5\n", "line 2 has \"10;0.5\""),
            (
                "step,loss/train\n10,0.5\n10,0.4\n",
                "line 3 has step 10 again",
            ),
        ] {
            let problem = parse_rows(text).unwrap_err();
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
        for long in ["x".repeat(5000), "\u{e9}".repeat(5000)] {
            for text in [
                format!("step,loss/train\n10,{long}\n"),
                format!("step,loss/train\n{long},1\n"),
                format!("step,{long},{long}\n"),
            ] {
                let problem = parse_rows(&text).unwrap_err();
                assert!(problem.len() < 200, "{problem}");
            }
        }
    }

    #[test]
    fn no_cut_of_a_table_within_its_rows_is_believed() {
        let text = "step,loss/train,loss/valid\n10,0.5,0.25\n20,0.125,\n";
        for end in 1..text.len() {
            let cut = &text[..end];
            assert_eq!(parse_rows(cut).is_ok(), cut.ends_with('\n'), "{cut:?}");
        }
    }

    #[test]
    fn a_validation_without_a_number_is_told_of() {
        let place = tempfile::tempdir().unwrap();
        let metrics = [
            MetricKind::new(LOSS, Reading::Mean),
            MetricKind::new("noise", Reading::Mean),
            MetricKind::new("frechet", Reading::Figure),
        ];
        let session = Session::new(4, StopSignal::default());
        let path = |name| place.path().join(name);
        let (csv, svg) = (path("metrics.csv"), path("curves.svg"));
        let mut log = RunLog::new(csv, svg, "", &metrics, session.clone(), Rows::new()).unwrap();
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
