//! Which files of a data set on the Hub are for what, by their names.

use std::collections::BTreeSet;

use kiln_data::{HUB_SCHEME, TRAIN, VALIDATION};

use crate::{RepositoryName, TransportError};

/// A data set's files by purpose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) train: Vec<String>,
    pub(crate) validation: Vec<String>,
    /// The split that replaces a missing training split.
    pub(crate) only: Option<String>,
}

impl Parts {
    /// Sorts `files`, or only those of the `wanted` configuration or split, or reports what is missing.
    pub(crate) fn of(
        files: &mut dyn Iterator<Item = &String>,
        wanted: Option<&str>,
        name: &RepositoryName,
    ) -> Result<Self, TransportError> {
        let incomplete = |missing: String| TransportError::Incomplete {
            repository: name.to_string(),
            missing,
        };
        let several = |what, found: Vec<&str>, example: String| TransportError::SeveralParts {
            repository: name.to_string(),
            what,
            found: found.iter().map(|name| format!("`{name}`")).collect(),
            example: format!("{HUB_SCHEME}{name}:{example}"),
        };
        let mut tables: Vec<Table<'_>> = files.filter_map(|file| Table::of(file)).collect();
        if tables.is_empty() {
            return Err(incomplete("images in Parquet files".to_owned()));
        }
        // A name means a configuration if there is one of this name, and a split otherwise.
        let configurations: BTreeSet<&str> = tables.iter().map(|table| table.folder).collect();
        let split = match wanted {
            None => None,
            Some(wanted) => match Wanted::among(&configurations, wanted) {
                Wanted::Split(split) => Some(split),
                Wanted::Part(folder, split) => {
                    tables.retain(|table| table.folder == folder);
                    split
                }
            },
        };
        let configurations: Vec<&str> = (configurations.into_iter())
            .filter(|folder| tables.iter().any(|table| table.folder == *folder))
            .collect();
        if let [first, _, ..] = configurations[..] {
            let example = match split {
                Some(split) => format!("{first}/{split}"),
                None => first.to_owned(),
            };
            return Err(several("configurations", configurations, example));
        }
        let of_split = |name: &str| -> Vec<String> {
            let of_split = tables.iter().filter(|table| table.split == name);
            of_split.map(|table| table.file.to_owned()).collect()
        };
        let first_of = |names: &[&str]| {
            let mut splits = names.iter().map(|name| {
                let is_it = |table: &&Table<'_>| table.split.eq_ignore_ascii_case(name);
                let files = tables.iter().filter(is_it);
                files.map(|table| table.file.to_owned()).collect::<Vec<_>>()
            });
            splits.find(|files| !files.is_empty()).unwrap_or_default()
        };
        if let Some(split) = split {
            let train = of_split(split);
            if train.is_empty() {
                return Err(incomplete(format!("a split `{split}`")));
            }
            return Ok(Self {
                train,
                validation: Vec::new(),
                only: None,
            });
        }
        let train = first_of(&TRAIN);
        if !train.is_empty() {
            return Ok(Self {
                train,
                validation: first_of(&VALIDATION),
                only: None,
            });
        }
        let splits: BTreeSet<&str> = tables.iter().map(|table| table.split).collect();
        let splits: Vec<&str> = splits.into_iter().collect();
        match splits[..] {
            [only] => Ok(Self {
                train: of_split(only),
                validation: Vec::new(),
                only: Some(only.to_owned()),
            }),
            _ => {
                let first = splits[0];
                let example = match configurations[0] {
                    folder if wanted.is_some() => format!("{folder}/{first}"),
                    _ => first.to_owned(),
                };
                Err(several("splits, but none to learn from", splits, example))
            }
        }
    }
}

impl Parts {
    /// Warns if a share of the training images has to be held out although the set has another split's name.
    pub(crate) fn say_what_is_held_out(&self, name: &RepositoryName) {
        if let Some(split) = &self.only {
            tracing::warn!("{name} has only the split `{split}`, so kiln holds out a share of it");
        }
    }
}

/// The meaning of the text after a data set's name.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Split(&'a str),
    /// A configuration, by its folder, and perhaps one of its splits.
    Part(&'a str, Option<&'a str>),
}

impl<'a> Wanted<'a> {
    fn among(configurations: &BTreeSet<&'a str>, wanted: &'a str) -> Self {
        let find = |name: &str| {
            let is_it =
                |folder: &&&str| **folder == name || folder.rsplit('/').next() == Some(name);
            let exact = configurations.get(name);
            exact.or_else(|| configurations.iter().find(is_it)).copied()
        };
        if let Some(folder) = find(wanted) {
            return Self::Part(folder, None);
        }
        if let Some((configuration, split)) = wanted.rsplit_once('/')
            && let Some(folder) = find(configuration)
        {
            return Self::Part(folder, Some(split));
        }
        Self::Split(wanted)
    }
}

/// A Parquet file of a data set.
#[derive(Debug, PartialEq, Eq)]
struct Table<'a> {
    file: &'a str,
    /// The folder of its configuration.
    folder: &'a str,
    split: &'a str,
}

impl<'a> Table<'a> {
    /// `data/train-00000-of-00001.parquet` belongs to the split `train`, and so does `default/train/0000.parquet`, the
    /// form that the Hub itself writes.
    fn of(file: &'a str) -> Option<Self> {
        let stem = file.strip_suffix(".parquet")?;
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let split = name.split(['-', '.']).next().unwrap_or(name);
        let (folder, split) = if split.bytes().all(|byte| byte.is_ascii_digit()) {
            folder.rsplit_once('/').unwrap_or(("", folder))
        } else {
            (folder, split)
        };
        Some(Self {
            file,
            folder,
            split,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(files: &[&str], part: Option<&str>) -> Result<(Vec<String>, Vec<String>), String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let name = "ada/digits".parse().unwrap();
        let parts = Parts::of(&mut files.iter(), part, &name).map_err(|error| error.to_string())?;
        Ok((parts.train, parts.validation))
    }

    #[test]
    fn files_are_sorted_by_their_names() {
        let cifar = [
            "README.md",
            "plain_text/test-00000-of-00001.parquet",
            "plain_text/train-00000-of-00002.parquet",
            "plain_text/train-00001-of-00002.parquet",
        ];
        let train = cifar[2..]
            .iter()
            .map(|&file| file.to_owned())
            .collect::<Vec<_>>();
        let test = vec![cifar[1].to_owned()];
        assert_eq!(parts(&cifar, None), Ok((train.clone(), test.clone())));
        assert_eq!(parts(&cifar, Some("train")), Ok((train, vec![])));
        assert_eq!(parts(&cifar, Some("test")), Ok((test, vec![])));
        let converted = [
            "default/train/0000.parquet",
            "default/validation/0000.parquet",
        ];
        let (train, validation) = parts(&converted, None).unwrap();
        assert_eq!([train, validation].concat(), converted);
        assert_eq!(
            parts(&["train.parquet"], None).unwrap().0,
            ["train.parquet"]
        );
    }

    #[test]
    fn a_configuration_is_named_by_its_folder() {
        let files = [
            "a/test-0.parquet",
            "a/train-0.parquet",
            "data/b/train/0000.parquet",
            "data/b/validation/0000.parquet",
        ];
        let (train, test) = parts(&files, Some("a")).unwrap();
        assert_eq!((train[0].as_str(), test[0].as_str()), (files[1], files[0]));
        for part in ["b", "data/b"] {
            let (train, validation) = parts(&files, Some(part)).unwrap();
            assert_eq!([train, validation].concat(), files[2..]);
        }
        for part in ["b/validation", "data/b/validation"] {
            let (train, validation) = parts(&files, Some(part)).unwrap();
            assert_eq!((train, validation.len()), (vec![files[3].to_owned()], 0));
        }
        // A split in only one configuration still does not choose the configuration.
        let message = parts(&files, Some("test")).unwrap_err();
        assert!(message.contains("hf:ada/digits:a/test"), "{message}");
    }

    #[test]
    fn without_one_to_learn_from_the_only_split_will_do() {
        let (train, validation) = parts(&["data/test-0.parquet"], None).unwrap();
        assert_eq!(
            (train, validation.len()),
            (vec!["data/test-0.parquet".to_owned()], 0)
        );
        let files = ["data/test-0.parquet", "data/val-0.parquet"];
        let message = parts(&files, None).unwrap_err();
        assert!(
            message.contains("`test`, `val`") && message.contains("hf:ada/digits:test"),
            "{message}"
        );
        assert_eq!(parts(&files, Some("val")).unwrap().0, [files[1]]);
    }

    #[test]
    fn other_words_for_the_splits_are_known() {
        let files = ["testing-0.parquet", "training-0.parquet"];
        let (train, validation) = parts(&files, None).unwrap();
        assert_eq!([validation, train].concat(), files);
        let capitals = ["data/TEST-0.parquet", "data/Train-0.parquet"];
        let (train, validation) = parts(&capitals, None).unwrap();
        assert_eq!([validation, train].concat(), capitals);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (files, split, words) in [
            (&["README.md", "images.zip"][..], None, "Parquet"),
            (&["data/train-0.parquet"], Some("dev"), "a split `dev`"),
            (
                &["a/train-0.parquet", "b/train-0.parquet"],
                None,
                "`a`, `b`; name one, as in --data hf:ada/digits:a",
            ),
        ] {
            let message = parts(files, split).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
