//! Names of folders with the splits of a data set, and folders whose names only look like those: `train_set/` beside
//! `test_set/`, or `train/` and `test/` within another folder. Such a data set opens, but not as its owner means it.

use std::collections::BTreeSet;

use crate::contents::Entry;

/// The names of folders with the training set, as in Python's `datasets`.
pub const TRAIN: [&str; 2] = ["train", "training"];
/// The names of folders with the validation set; the first that exists is used.
pub const VALIDATION: [&str; 8] = [
    "validation",
    "valid",
    "val",
    "dev",
    "test",
    "testing",
    "eval",
    "evaluation",
];

/// How many folders from the outermost one can be splits that were meant.
const LEVELS: usize = 2;
/// How many folders a warning lists.
const LISTED: usize = 4;
/// What may follow a split's name in one word, as in `trainset`.
const SUFFIXES: [&str; 2] = ["set", "data"];

/// Whether a folder's name, in small letters, is that of a split.
pub(crate) fn is_split(name: &str) -> bool {
    TRAIN.contains(&name) || VALIDATION.contains(&name)
}

/// Warnings of folders that look like splits among those of the images: `outer` is how many folders hold all images, and
/// `class` how many there are above the folder that is a class.
pub(crate) fn mistaken<'a>(
    images: impl Iterator<Item = &'a Entry>,
    outer: usize,
    class: usize,
) -> Vec<String> {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    let [classes, within] = &mut found;
    for image in images {
        let folders: Vec<&str> = image.folders().take(outer + LEVELS).collect();
        for level in class..folders.len() {
            if looks_like_split(folders[level]) {
                let path = format!("{}/", folders[outer..=level].join("/"));
                if level == class {
                    &mut *classes
                } else {
                    &mut *within
                }
                .insert(path);
            }
        }
    }
    let mut warnings = Vec::new();
    if !classes.is_empty() {
        let (look, they_are) = match classes.len() {
            1 => ("looks like a split but is taken for a class", "it is one"),
            _ => ("look like splits but are taken for classes", "they are"),
        };
        warnings.push(format!(
            "{} {look}, because only train/ beside validation/, val/ or test/ are splits: unless {they_are}, rename the \
             folders so",
            list(classes)
        ));
    }
    if !within.is_empty() {
        let look = match within.len() {
            1 => "looks like a split but is inside another folder, whose images",
            _ => "look like splits but are inside other folders, whose images",
        };
        warnings.push(format!(
            "{} {look} are taken together: to use splits, pass the folder that holds train/ and validation/, val/ or test/",
            list(within)
        ));
    }
    warnings
}

/// Whether a word of a folder's name is that of a split: `train_set`, `Test-Images`, `val2017`, `trainA`, `testset`.
fn looks_like_split(name: &str) -> bool {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for letter in name.chars() {
        if !letter.is_alphabetic() || (was_small && letter.is_uppercase()) {
            words.push(String::new());
        }
        if letter.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        was_small = letter.is_lowercase();
    }
    words.iter().any(|word| {
        let short = SUFFIXES.iter().find_map(|end| word.strip_suffix(end));
        is_split(word) || short.is_some_and(is_split)
    })
}

/// `test/ and val/`
fn list(folders: &BTreeSet<String>) -> String {
    let mut listed: Vec<&str> = folders.iter().take(LISTED).map(String::as_str).collect();
    let more = format!("{} more", folders.len().saturating_sub(LISTED));
    if folders.len() > LISTED {
        listed.push(&more);
    }
    match listed.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => listed.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Content;

    fn warnings(names: &[&str], outer: usize, class: usize) -> String {
        let entries: Vec<Entry> = names
            .iter()
            .map(|name| Entry {
                name: (*name).to_owned(),
                content: Content::holding(b""),
            })
            .collect();
        mistaken(entries.iter(), outer, class).join("\n")
    }

    #[test]
    fn a_word_makes_a_name_look_like_a_split() {
        for name in [
            "train",
            "train_set",
            "Test-Images",
            "val2017",
            "trainA",
            "testset",
            "my validation",
            "TRAIN",
            "x.valid.y",
            "TrainData",
            "2_testing",
            "devset",
        ] {
            assert!(looks_like_split(name), "{name}");
        }
        for name in [
            "", "cat", "trainer", "contest", "tests", "oval", "set", "valley", "strain",
        ] {
            assert!(!looks_like_split(name), "{name}");
        }
    }

    #[test]
    fn folders_that_look_like_splits_are_named() {
        let said = warnings(&["train_set/a.png", "test_set/b.png"], 0, 0);
        assert!(
            said.starts_with("test_set/ and train_set/ look like splits but are taken for classes"),
            "{said}"
        );
        let said = warnings(&["x/train/a.png", "x/holdout/b.png"], 1, 1);
        assert!(
            said.starts_with("train/ looks like a split but is taken for a class"),
            "{said}"
        );
        let said = warnings(
            &["images/train/a.png", "images/val/b.png", "labels/c.png"],
            0,
            0,
        );
        assert!(
            said.starts_with(
                "images/train/ and images/val/ look like splits but are inside other folders"
            ),
            "{said}"
        );
        // What are splits, and what lies deeper, is not said.
        assert_eq!(warnings(&["train/cat/a.png", "test/cat/b.png"], 0, 1), "");
        assert_eq!(warnings(&["a/b/train/a.png", "c/b/val/b.png"], 0, 0), "");
        let said = warnings(&["train/train/a.png", "test/val/b.png"], 0, 1);
        assert!(
            said.contains("test/val/ and train/train/ look like splits but are taken"),
            "{said}"
        );
        let names = ["a", "b", "c", "d", "e", "f"].map(|folder| format!("{folder}/test/x.png"));
        let said = warnings(&names.each_ref().map(String::as_str), 0, 0);
        assert!(
            said.starts_with("a/test/, b/test/, c/test/, d/test/ and 2 more look"),
            "{said}"
        );
    }
}
