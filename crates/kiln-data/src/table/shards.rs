//! Tables in several files, whose names contain their number and the number of files: `train-00000-of-00002.parquet`,
//! or followed by the start of a digest, `train-00000-of-00002-0123456789abcdef.parquet`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::names;

/// How many missing files an error lists.
const LISTED: usize = 5;

/// The parts of such a name.
struct Shard<'a> {
    /// The folder, and the part before the number.
    series: (&'a Path, &'a str),
    number: usize,
    /// The digits as written.
    of: &'a str,
    has_digest: bool,
}

impl<'a> Shard<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".parquet")?;
        let (start, end) = stem.rsplit_once("-of-")?;
        let (name, number) = start.rsplit_once('-')?;
        let (of, digest) = match end.split_once('-') {
            Some((of, digest)) => (of, Some(digest)),
            None => (end, None),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(number) || !is_number(of) || number.len() != of.len() {
            return None;
        }
        Some(Self {
            series: (path.parent()?, name),
            number: number.parse().ok()?,
            of,
            has_digest: digest.is_some(),
        })
    }
}

/// The files beside `path` that belong to the same table, including itself, in order.
pub(super) fn of_the_same_table(path: &Path) -> Vec<PathBuf> {
    let alone = || vec![path.to_owned()];
    let Some(shard) = Shard::of(path) else {
        return alone();
    };
    let folder = match shard.series.0 {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let Ok(entries) = fs::read_dir(folder) else {
        return alone();
    };
    let is_beside = |other: &PathBuf| {
        let other = Shard::of(other);
        other.is_some_and(|other| other.series == shard.series && other.of == shard.of)
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut files: Vec<PathBuf> = names
        .map(|name| path.with_file_name(name))
        .filter(is_beside)
        .collect();
    files.sort();
    files
}

/// Refuses tables of which some files are missing.
///
/// # Errors
/// [`DataError::Unusable`] with the names of the files.
pub(super) fn refuse_missing<'a>(
    files: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), DataError> {
    let mut tables: BTreeMap<_, (&Path, BTreeSet<usize>, bool)> = BTreeMap::new();
    for path in files {
        if let Some(shard) = Shard::of(path) {
            let table = tables
                .entry((shard.series, shard.of))
                .or_insert_with(|| (path, BTreeSet::new(), shard.has_digest));
            table.1.insert(shard.number);
        }
    }
    for (((_, name), of), (path, there, has_digest)) in tables {
        let count: usize = of.parse().unwrap_or(0);
        let missing = count - there.range(..count).count();
        if missing == 0 {
            continue;
        }
        let digest = if has_digest { "-*" } else { "" };
        let width = of.len();
        let listed = (0..count)
            .filter(|number| !there.contains(number))
            .take(LISTED)
            .map(|number| {
                names::printable(&format!("{name}-{number:0width$}-of-{of}{digest}.parquet"))
            });
        let mut listed = listed.collect::<Vec<_>>().join(", ");
        if missing > LISTED {
            listed += &format!(" and {} more", missing - LISTED);
        }
        return Err(DataError::Unusable {
            path: path.to_owned(),
            problem: format!(
                "is one of {count} files of a data set, of which {missing} {} missing ({listed}): put {} beside it, or rename \
                 it to train on what is there",
                if missing == 1 { "is" } else { "are" },
                if missing == 1 { "it" } else { "them" },
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(names: &[&str]) -> Option<String> {
        let files: Vec<PathBuf> = names
            .iter()
            .map(|name| Path::new("data").join(name))
            .collect();
        refuse_missing(&files).err().map(|error| error.to_string())
    }

    #[test]
    fn missing_files_are_named() {
        for whole in [
            &["train-00000-of-00001.parquet"][..],
            &[
                "train-00000-of-00002-ab.parquet",
                "train-00001-of-00002-cd.parquet",
            ],
            &["train-1-of-me.parquet", "0000.parquet", "part-3.parquet"],
        ] {
            assert_eq!(refusal(whole), None, "{whole:?}");
        }
        for (files, words) in [
            (
                &["train-00000-of-00002.parquet"][..],
                "1 is missing (train-00001-of-00002.parquet)",
            ),
            (
                &["test-1-of-2-ab.parquet"],
                "1 is missing (test-0-of-2-*.parquet)",
            ),
            (
                &[
                    "train-00000-of-00001.parquet",
                    "test-00008-of-00009.parquet",
                ],
                "test-00004-of-00009.parquet and 3 more",
            ),
            // A number that is too large does not count.
            (&["train-2-of-2.parquet"], "2 are missing"),
        ] {
            let refusal = refusal(files).unwrap();
            assert!(refusal.contains(words), "{files:?}: {refusal}");
        }
    }

    #[test]
    fn one_file_brings_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let names = ["train-0-of-2-ab.parquet", "train-1-of-2-cd.parquet"];
        for name in names
            .iter()
            .chain(&["test-0-of-2.parquet", "train-0-of-3.parquet", "x"])
        {
            fs::write(path(name), "").unwrap();
        }
        let found = of_the_same_table(&path(names[1]));
        assert_eq!(found, names.map(path));
        assert_eq!(of_the_same_table(&path("x")), [path("x")]);
    }
}
