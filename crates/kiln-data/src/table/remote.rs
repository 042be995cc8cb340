//! Tables that are somewhere else. To open a data set of them takes their footers and their classes, a small part of each; the
//! images come when the training does.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::Tables;
use super::bytes::{Outline, TableBytes};
use super::file::TableFile;
use super::shards;
use super::stream::Streamed;
use crate::config::DataConfig;
use crate::dataset::Datasets;
use crate::elsewhere::FileSource;
use crate::error::DataError;
use crate::progress::{Progress, ProgressUnit, Task};
use crate::shards::{Elsewhere, Place};

/// How many tables are asked for at a time: a server's answer takes long, and is short.
const TOGETHER: usize = 8;
/// The last bytes of a table, which hold most footers.
const TAIL: u64 = 64 << 10;
/// A longer footer is a mistake.
const LONGEST_FOOTER: u64 = 64 << 20;
/// More bytes of classes, in one table, are no classes.
const MOST_CLASSES: u64 = 256 << 20;
/// The end of a table: the footer's length and a word.
const END: u64 = 8;
/// Stretches with fewer bytes between them are asked for together.
const GAP: u64 = 64 << 10;

/// The Parquet files of a data set that is somewhere else, by purpose.
#[derive(Clone, Debug)]
pub struct RemoteTables {
    /// The data set's name, for messages and the model's metadata.
    pub name: String,
    /// Files with images to learn from.
    pub train: Vec<RemoteTable>,
    /// Files with images to measure on. If there are none, a share of the others is held out.
    pub validation: Vec<RemoteTable>,
    /// Has the files: first those of `train`, then those of `validation`.
    pub source: Arc<dyn FileSource>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTable {
    /// What messages call it. The last part is the file's name.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: u64,
}

/// Opens tables that are somewhere else as [`open_tables`](crate::open_tables) does tables that are here and streamed: the images,
/// their order and the fingerprints are the same. Only footers and classes are read; each file comes when a training is at it.
///
/// # Errors
/// As [`open_tables`](crate::open_tables), and [`DataError::Source`] if a file cannot be had.
pub fn open_remote_tables(
    tables: &RemoteTables,
    config: &DataConfig,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    config.validate()?;
    let paths = |tables: &[RemoteTable]| tables.iter().map(|table| table.path.clone()).collect();
    let named = Tables {
        name: tables.name.clone(),
        train: paths(&tables.train),
        validation: paths(&tables.validation),
    };
    shards::refuse_missing(named.train.iter().chain(&named.validation))?;
    let all: Vec<_> = (tables.train.iter().chain(&tables.validation))
        .enumerate()
        .collect();
    let task = format!("{}: what its {} files hold", tables.name, all.len());
    let task = Task::begin(progress, &task, ProgressUnit::Work, Some(all.len() as u64));
    let mut streamed = Streamed::new(config);
    for some in all.chunks(TOGETHER) {
        let outlines = thread::scope(|scope| {
            let outlines: Vec<_> = some
                .iter()
                .map(|&(number, table)| {
                    let read = move |range| {
                        let bytes = tables.source.read(number, range);
                        bytes.map_err(DataError::Source)
                    };
                    scope.spawn(move || outline(table, &read, config))
                })
                .collect();
            let join = |outline: thread::ScopedJoinHandle<'_, _>| match outline.join() {
                Ok(outline) => outline,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            outlines.into_iter().map(join).collect::<Vec<_>>()
        });
        for (&(number, table), outline) in some.iter().zip(outlines) {
            let added = outline.and_then(|outline| {
                let place = Place::Elsewhere(Elsewhere {
                    source: tables.source.clone(),
                    file: number,
                    classes: outline.digest_of_labels()?,
                });
                streamed.add(&table.path, &outline, place)
            });
            added.map_err(not_here)?;
            task.advance(1);
        }
    }
    streamed.finish(&named, config)
}

/// Reads what is needed of a table before its images.
fn outline<'a>(
    table: &'a RemoteTable,
    read: &dyn Fn(Range<u64>) -> Result<Vec<u8>, DataError>,
    config: &DataConfig,
) -> Result<TableFile<'a>, DataError> {
    let RemoteTable { path, length } = table;
    let outline = Arc::new(Outline::new(*length));
    if *length >= END {
        let (start, footer) = footer(path, *length, read)?;
        outline.add(start, footer);
    }
    let bytes = TableBytes::Outline(outline.clone());
    let table = TableFile::unchecked(path, bytes, config)?;
    // What is wrong with the places of the images is better told now.
    table.places_of(Some(table.columns.image))?;
    let mut classes = table.places_of(table.columns.label)?;
    classes.retain(|range| !outline.has(range));
    let sizes = classes.iter().map(|range| range.end - range.start);
    let size = sizes.fold(0u64, u64::saturating_add);
    if size > MOST_CLASSES {
        return Err(table.unusable(format!(
            "has {size} bytes of classes, more than the {MOST_CLASSES} that kiln reads ahead of the images: leave data.stream out, or name another data.label_column"
        )));
    }
    for range in together(classes) {
        outline.add(range.start, read(range)?);
    }
    table.check_pages(table.columns.label)?;
    Ok(table)
}

/// The end of a table with its whole footer, and the place where it starts.
fn footer(
    path: &Path,
    length: u64,
    read: &dyn Fn(Range<u64>) -> Result<Vec<u8>, DataError>,
) -> Result<(u64, Vec<u8>), DataError> {
    let tail = length.saturating_sub(TAIL);
    let bytes = read(tail..length)?;
    let end: Option<[u8; 4]> = bytes
        .len()
        .checked_sub(END as usize)
        .and_then(|start| bytes.get(start..start + 4)?.try_into().ok());
    let of_footer = u64::from(u32::from_le_bytes(end.unwrap_or_default())) + END;
    // What is no Parquet file, or too short for its footer, is refused when it is read as one.
    if !bytes.ends_with(b"PAR1") || of_footer > length || of_footer <= length - tail {
        return Ok((tail, bytes));
    }
    if of_footer > LONGEST_FOOTER {
        return Err(DataError::Unusable {
            path: path.to_owned(),
            problem: format!(
                "has a footer of {of_footer} bytes, more than the {LONGEST_FOOTER} that kiln reads: take another data set"
            ),
        });
    }
    let start = length - of_footer;
    Ok((start, [read(start..tail)?, bytes].concat()))
}

/// Joins stretches that are close to each other.
fn together(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// The same error for a file that cannot be deleted or replaced from here.
fn not_here(error: DataError) -> DataError {
    match error {
        DataError::Damaged { path, reason } => DataError::Unusable {
            path,
            problem: format!("is damaged, {reason}: choose another revision, or tell its owner"),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_are_close_are_read_together() {
        let far = 1 << 20;
        let ranges = vec![far..far + 9, 0..10, 20..30, 5..5, 30..31];
        assert_eq!(together(ranges), [0..31, far..far + 9]);
        assert_eq!(together(vec![0..1, 0..1, u64::MAX - 1..u64::MAX]).len(), 2);
    }

    #[test]
    fn a_footer_is_read_whole_and_no_more() {
        let asked = std::sync::Mutex::new(Vec::new());
        let file = |footer: u32, length: usize| {
            let mut bytes = vec![7; length];
            bytes[length - 8..length - 4].copy_from_slice(&footer.to_le_bytes());
            bytes[length - 4..].copy_from_slice(b"PAR1");
            bytes
        };
        let found = |bytes: &[u8]| {
            let read = |range: Range<u64>| {
                asked.lock().unwrap().push(range.clone());
                Ok(bytes[range.start as usize..range.end as usize].to_vec())
            };
            let footer = footer(Path::new("t"), bytes.len() as u64, &read);
            footer.map(|(start, footer)| {
                assert_eq!(footer, bytes[start as usize..]);
                start
            })
        };
        let tail = TAIL as usize;
        assert_eq!(found(&file(100, 3 * tail)).unwrap(), 2 * TAIL);
        assert_eq!(found(&file(TAIL as u32, 3 * tail)).unwrap(), 2 * TAIL - 8);
        assert_eq!(found(&file(9, 20)).unwrap(), 0);
        assert_eq!(asked.lock().unwrap().len(), 4);
        // A footer that is longer than the file, or than any.
        assert_eq!(found(&file(u32::MAX, 3 * tail)).unwrap(), 2 * TAIL);
        let long = file(LONGEST_FOOTER as u32, LONGEST_FOOTER as usize + 100);
        let sentence = found(&long).unwrap_err().to_string();
        assert!(sentence.contains("footer"), "{sentence}");
    }
}
