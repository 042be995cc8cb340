//! Data sets on the Hub: which of their files hold what.

use kiln_data::{DataConfig, Datasets, Progress, Tables, open_tables};

use super::client::Kind;
use super::pull::fetch;
use super::{HubSettings, RepositoryName, TransportError};

/// What a path begins with that names a data set on the Hub.
const SCHEME: &str = "hf:";
/// The split to learn from.
const TRAIN: &str = "train";
/// The splits to measure on, the first one there is.
const VALIDATION: [&str; 4] = ["validation", "valid", "val", "test"];

/// Opens the data set that `config` names: on this machine as [`kiln_data::open`] does, or on the Hub where its path is
/// `hf:ORG/DATASET`, with `@REVISION` for a branch, tag or commit, and with `:SPLIT` for one split alone, of which a share
/// is then held out.
///
/// Of the Hub's data sets those are read that are stored in Parquet, one configuration of them. The files go to the cache
/// as those of models do: see [`pull`](crate::pull).
///
/// # Errors
/// As [`pull`](crate::pull) and [`kiln_data::open`].
pub fn open_data_set(
    config: &DataConfig,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Datasets, TransportError> {
    let path = config.path.as_deref().and_then(|path| path.to_str());
    let Some(place) = path.and_then(|path| path.strip_prefix(SCHEME)) else {
        return Ok(kiln_data::open(config, progress)?);
    };
    let (name, split) = match place.split_once(':') {
        Some((name, split)) => (name, Some(split)),
        None => (place, None),
    };
    let name: RepositoryName = name.parse()?;
    let incomplete = |missing: String| TransportError::Incomplete {
        repository: name.to_string(),
        missing,
    };
    let parts =
        |files: &mut dyn Iterator<Item = &String>| Parts::of(files, split).map_err(incomplete);
    let pulled = fetch(
        &name,
        Kind::DataSet,
        &|selection| {
            let parts = parts(&mut selection.files.iter())?;
            Ok([parts.train, parts.validation].concat())
        },
        &|_, _| Ok(()),
        settings,
        progress,
    )?;
    let parts = parts(&mut pulled.files.iter())?;
    let here = |files: Vec<String>| files.iter().map(|file| pulled.folder.join(file)).collect();
    let tables = Tables {
        name: name.id(),
        train: here(parts.train),
        validation: here(parts.validation),
    };
    Ok(open_tables(&tables, config, progress)?)
}

/// A data set's files by what they are for.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    train: Vec<String>,
    validation: Vec<String>,
}

impl Parts {
    /// Sorts `files`, or says what is missing among them.
    fn of(files: &mut dyn Iterator<Item = &String>, wanted: Option<&str>) -> Result<Self, String> {
        let mut tables = Vec::new();
        for file in files {
            if let Some((folder, split)) = place(file) {
                tables.push((folder, split, file));
            }
        }
        let Some((first, ..)) = tables.first().copied() else {
            return Err("images in Parquet files".to_owned());
        };
        if let Some((other, ..)) = tables.iter().find(|(folder, ..)| *folder != first) {
            return Err(format!(
                "a single configuration (it has `{first}` and `{other}`)"
            ));
        }
        let of_split = |name: &str| -> Vec<String> {
            let of_split = tables.iter().filter(|(_, split, _)| *split == name);
            of_split.map(|(.., file)| (*file).clone()).collect()
        };
        let train = of_split(wanted.unwrap_or(TRAIN));
        if train.is_empty() {
            return Err(format!("a split `{}`", wanted.unwrap_or(TRAIN)));
        }
        let validation = VALIDATION.iter().map(|name| of_split(name));
        let validation = validation.filter(|_| wanted.is_none());
        Ok(Self {
            train,
            validation: validation
                .into_iter()
                .find(|files| !files.is_empty())
                .unwrap_or_default(),
        })
    }
}

/// The configuration and the split of a Parquet file: `data/train-00000-of-00001.parquet` is of the split `train`, and so
/// is `default/train/0000.parquet`, as the Hub itself writes them.
fn place(file: &str) -> Option<(&str, &str)> {
    let stem = file.strip_suffix(".parquet")?;
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let split = name.split(['-', '.']).next().unwrap_or(name);
    if split.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(folder.rsplit_once('/').unwrap_or(("", folder)));
    }
    Some((folder, split))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(files: &[&str], split: Option<&str>) -> Result<(Vec<String>, Vec<String>), String> {
        let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let parts = Parts::of(&mut files.iter(), split)?;
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
    fn what_is_missing_is_named() {
        for (files, split, words) in [
            (&["README.md", "images.zip"][..], None, "Parquet"),
            (&["data/test-0.parquet"], None, "a split `train`"),
            (&["data/train-0.parquet"], Some("dev"), "a split `dev`"),
            (
                &["a/train-0.parquet", "b/train-0.parquet"],
                None,
                "`a` and `b`",
            ),
        ] {
            let message = parts(files, split).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
