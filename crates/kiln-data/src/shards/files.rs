//! Which files are the shards of a data set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::contents::{Content, Listing, open_file, start_of};
use crate::error::DataError;
use crate::kind::{Kind, is_named_like_an_image};
use crate::names;
use crate::split_names::{TRAIN, VALIDATION};

/// How many missing files an error lists.
const LISTED: usize = 5;
/// More names than this in one pattern are a mistake.
const MOST_NAMES: usize = 1_000_000;

/// The shards of a data set, by purpose, each list sorted by name.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Files {
    pub(crate) train: Vec<PathBuf>,
    /// If there are none, a share of the others is held out.
    pub(crate) validation: Vec<PathBuf>,
}

/// Whether a path names several files, as in `data/shard-{000..099}.tar`.
pub(crate) fn is_pattern(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    text.contains('{') && text.contains('}') && !path.exists()
}

/// The files that a pattern names: `{000..099}` are numbers, `{train,val}` are words.
///
/// # Errors
/// If the braces mean nothing, or a file is missing.
pub(crate) fn of_pattern(path: &Path) -> Result<Files, DataError> {
    let unusable = |problem: String| DataError::Unusable {
        path: path.to_owned(),
        problem,
    };
    let text = path.to_str().unwrap_or_default();
    let names = expanded(text).map_err(|problem| {
        unusable(format!(
            "{problem}: write several files as in data/shard-{{000..099}}.tar"
        ))
    })?;
    let all: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    let missing: Vec<&PathBuf> = all.iter().filter(|path| !path.exists()).collect();
    if !missing.is_empty() {
        let listed = missing.iter().take(LISTED);
        let listed: Vec<String> = listed
            .map(|path| names::of_path(Path::new(path.file_name().unwrap_or_default())))
            .collect();
        let more = match missing.len() - listed.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Err(unusable(format!(
            "names {} shards, of which {} {} missing ({}{more}): fetch {}, or name those that are there",
            all.len(),
            missing.len(),
            if missing.len() == 1 { "is" } else { "are" },
            listed.join(", "),
            if missing.len() == 1 { "it" } else { "them" },
        )));
    }
    Ok(by_purpose(all))
}

/// The tar archives among the files of a folder, if it has no images of its own.
pub(crate) fn of_folder(listing: &Listing) -> Option<Files> {
    let mut tars = Vec::new();
    for entry in &listing.entries {
        let Content::File(path) = &entry.content else {
            return None;
        };
        if is_tar(path) {
            tars.push(path.clone());
        } else if is_named_like_an_image(entry.file_name()) {
            return None;
        }
    }
    (!tars.is_empty()).then(|| by_purpose(tars))
}

/// Whether the file at `path` is a tar, plain or gzipped, by its name and its beginning.
fn is_tar(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default().to_ascii_lowercase();
    if ![".tar", ".tar.gz", ".tgz"]
        .iter()
        .any(|ending| name.ends_with(ending))
    {
        return false;
    }
    let start = open_file(path).ok().map(|(file, _)| start_of(file));
    // An empty or damaged one is a damaged shard.
    start.is_some_and(|start| start.is_ok_and(|start| !matches!(Kind::of(&start), Kind::Image(_))))
}

/// Sorts files by the split that they are named after: `train-000.tar`, `val/000.tar`.
pub(crate) fn by_purpose(mut files: Vec<PathBuf>) -> Files {
    files.sort();
    files.dedup();
    let split = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::file_name);
        let words = [path.file_stem(), folder];
        words.into_iter().flatten().find_map(|word| {
            let word = word.to_str()?.to_ascii_lowercase();
            let word = word
                .split(|character: char| !character.is_ascii_alphabetic())
                .next()?;
            let is = |names: &[&str]| names.contains(&word);
            match () {
                () if is(&TRAIN) => Some(false),
                () if is(&VALIDATION) => Some(true),
                () => None,
            }
        })
    };
    let purposes: Vec<Option<bool>> = files.iter().map(split).collect();
    let has = |purpose| purposes.contains(&Some(purpose));
    if !(has(false) && has(true)) {
        return Files {
            train: files,
            validation: Vec::new(),
        };
    }
    let others = purposes.iter().filter(|purpose| purpose.is_none()).count();
    if others > 0 {
        tracing::warn!(
            "left out {others} shards that are named neither for training nor for validation"
        );
    }
    let of = |wanted| {
        let pairs = files.iter().zip(&purposes);
        pairs
            .filter(|(_, purpose)| **purpose == Some(wanted))
            .map(|(path, _)| path.clone())
            .collect()
    };
    Files {
        train: of(false),
        validation: of(true),
    }
}

/// All names that the braces of `text` stand for, as a shell expands them.
fn expanded(text: &str) -> Result<Vec<String>, String> {
    let Some(open) = text.find('{') else {
        return Ok(vec![text.to_owned()]);
    };
    let close = text[open..].find('}').ok_or("a { in it has no }")? + open;
    let (before, within, after) = (&text[..open], &text[open + 1..close], &text[close + 1..]);
    let words = match within.split_once("..") {
        Some((first, last)) => numbers(first, last)?,
        None => within.split(',').map(str::to_owned).collect(),
    };
    let rests = expanded(after)?;
    if words.len().saturating_mul(rests.len()) > MOST_NAMES {
        return Err(format!("it stands for more than {MOST_NAMES} files"));
    }
    let names = words.iter().flat_map(|word| {
        rests
            .iter()
            .map(move |rest| format!("{before}{word}{rest}"))
    });
    let names: Vec<String> = names.collect();
    let different: BTreeSet<&String> = names.iter().collect();
    match different.len() == names.len() {
        true => Ok(names),
        false => Err("it names a file twice".to_owned()),
    }
}

/// The numbers from `first` to `last`, as wide as `first`.
fn numbers(first: &str, last: &str) -> Result<Vec<String>, String> {
    let number = |text: &str| {
        let number = text.parse::<usize>().ok();
        number.ok_or_else(|| format!("`{text}` in its braces is no number"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if from > to {
        return Err(format!("{{{first}..{last}}} counts down"));
    }
    if to - from >= MOST_NAMES {
        return Err(format!(
            "{{{first}..{last}}} are more than {MOST_NAMES} numbers"
        ));
    }
    let width = first.len();
    Ok((from..=to)
        .map(|number| format!("{number:0width$}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_numbers_and_words() {
        let names = |text: &str| expanded(text).unwrap();
        assert_eq!(
            names("a-{08..11}.tar"),
            ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
        );
        assert_eq!(names("{x,y}/{0..1}"), ["x/0", "x/1", "y/0", "y/1"]);
        assert_eq!(names("plain"), ["plain"]);
        for (text, words) in [
            ("a{0..1", "has no }"),
            ("a{0..b}", "`b`"),
            ("a{5..1}", "{5..1} counts down"),
            ("a{0..99999999}", "{0..99999999} are more than"),
            ("{0..9999}{0..9999}", "more than"),
            ("{a,a}", "twice"),
        ] {
            let problem = expanded(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    #[test]
    fn names_tell_the_splits() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let sorted = by_purpose(files(&["val-0.tar", "train-1.tar", "train-0.tar", "x.tar"]));
        assert_eq!(sorted.train, files(&["train-0.tar", "train-1.tar"]));
        assert_eq!(sorted.validation, files(&["val-0.tar"]));
        let sorted = by_purpose(files(&["d/validation/0.tar", "d/train/0.tar"]));
        assert_eq!(sorted.validation, files(&["d/validation/0.tar"]));
        // Without shards to learn from they are taken together.
        for names in [
            &["test-1.tar", "test-0.tar"],
            &["training.tar", "valley.tar"],
        ] {
            let sorted = by_purpose(files(names));
            assert_eq!(
                (sorted.train.len(), sorted.validation.len()),
                (2, 0),
                "{names:?}"
            );
        }
    }

    #[test]
    fn a_hole_in_the_list_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for number in [0, 1, 3] {
            std::fs::write(folder.path().join(format!("s-{number}.tar")), "").unwrap();
        }
        let pattern = |text: &str| folder.path().join(text);
        assert!(is_pattern(&pattern("s-{0..3}.tar")));
        let problem = of_pattern(&pattern("s-{0..3}.tar"))
            .unwrap_err()
            .to_string();
        assert!(
            problem.contains("4 shards, of which 1 is missing (s-2.tar)"),
            "{problem}"
        );
        assert_eq!(
            of_pattern(&pattern("s-{0,1,3}.tar")).unwrap().train.len(),
            3
        );
    }
}
