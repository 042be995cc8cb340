//! `run.json`: what people call a run, and the code that it was started from.

use std::path::Path;

use kiln_data::{is_unprintable, read_regular};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::run_folder::write_atomically;

/// The largest number of letters of a name or tag.
const LONGEST: usize = 200;

/// Many times the size of the file, in bytes.
const LARGEST: u64 = 1 << 20;

/// What people call a run, and the code that it was started from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLabel {
    /// Its name, if it is not that of its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The git revisions that its trainings were started from, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<String>,
}

impl RunLabel {
    /// The label in `file`; an empty one if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or is not ours: writing it again would lose its content.
    pub(crate) fn read(file: &Path) -> Result<Self, TrainError> {
        let damaged = |problem: &dyn std::fmt::Display| {
            TrainError::Run(format!(
                "{} is not the label of a run, {problem}: mend it, or move it away",
                file.display()
            ))
        };
        let bytes = match read_regular(file, LARGEST) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            other => other.map_err(TrainError::file("read", file))?,
        };
        serde_json::from_slice(&bytes).map_err(|error| damaged(&error))
    }

    /// Adds this label to the one in `file`: a name replaces the name, tags and revisions are added.
    ///
    /// # Errors
    /// Those of [`RunLabel::read`]; a name or tag that is no short line of text; a file that cannot be written.
    pub(crate) fn add_to(&self, file: &Path) -> Result<(), TrainError> {
        let mut words = self.name.iter().chain(&self.tags);
        words.try_for_each(|word| check(word))?;
        let before = Self::read(file)?;
        let mut label = before.clone();
        label.name = self.name.clone().or(label.name);
        for (all, new) in [
            (&mut label.tags, &self.tags),
            (&mut label.revisions, &self.revisions),
        ] {
            for word in new {
                if !all.contains(word) {
                    all.push(word.clone());
                }
            }
        }
        if label == before {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&label).map_err(std::io::Error::from);
        let text = text.map_err(TrainError::file("write", file))?;
        write_atomically(file, format!("{text}\n").as_bytes())
    }
}

fn check(word: &str) -> Result<(), TrainError> {
    let is_line = !word.trim().is_empty() && !word.contains(is_unprintable);
    match is_line && word.chars().count() <= LONGEST {
        true => Ok(()),
        false => Err(TrainError::Run(format!(
            "{:?} is no name or tag of a run: use a line of 1 to {LONGEST} letters, such as small-batch",
            word.chars().take(LONGEST).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: Option<&str>, tags: &[&str], revisions: &[&str]) -> RunLabel {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        RunLabel {
            name: name.map(str::to_owned),
            tags: owned(tags),
            revisions: owned(revisions),
        }
    }

    #[test]
    fn tags_and_revisions_add_up_and_a_name_replaces_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        label(None, &[], &[]).add_to(&file).unwrap();
        assert!(!file.exists(), "nothing to say");
        let parts = [
            label(Some("first"), &["a", "b"], &["1"]),
            label(None, &["b", "c"], &["1"]),
            label(Some("second"), &[], &["2"]),
        ];
        for part in &parts {
            part.add_to(&file).unwrap();
        }
        let all = label(Some("second"), &["a", "b", "c"], &["1", "2"]);
        assert_eq!(RunLabel::read(&file).unwrap(), all);
    }

    #[test]
    fn what_is_no_label_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        std::fs::write(&file, "[1, 2]").unwrap();
        label(Some("a"), &[], &[]).add_to(&file).unwrap_err();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "[1, 2]");
        std::fs::remove_file(&file).unwrap();
        for word in ["", " ", "two\nlines", "\u{1b}[2J", &"x".repeat(201)] {
            label(None, &[word], &[]).add_to(&file).unwrap_err();
            assert!(!file.exists(), "{word:?}");
        }
    }
}
