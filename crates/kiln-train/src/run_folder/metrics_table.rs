//! `metrics.csv`: one row per round, and one column per metric and split.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use kiln_data::read_regular;
use kiln_pipeline::plots::Rows;

use crate::error::TrainError;
use crate::run_folder::write_atomically;

/// Many times the size of any table of metrics, in bytes.
const LARGEST: u64 = 256 << 20;

/// Adds the missing ones of `rows` to the file `csv`.
///
/// # Errors
/// If the file cannot be read or written.
pub(crate) fn add_rows(csv: &Path, rows: &Rows) -> Result<(), TrainError> {
    let mut all = rows_in(csv)?;
    add_absent(&mut all, rows);
    write_rows(csv, &all)
}

/// Writes the file `csv` again, with these rows alone.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_rows(csv: &Path, rows: &Rows) -> Result<(), TrainError> {
    write_atomically(csv, to_csv(rows).as_bytes())
}

/// Adds the cells that are not there yet.
pub(crate) fn add_absent(rows: &mut Rows, more: &Rows) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
