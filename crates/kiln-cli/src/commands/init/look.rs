//! Looks at the data: which set it is, and what its images are like in their files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use kiln_data::{DataConfig, DatasetKind, Originals};
use kiln_hub::HubSettings;

use crate::terminal::DataProgress;

/// How many images are looked at in their files.
const LOOKED_AT: usize = 64;
/// A set that takes longer to be decoded is not decoded as a whole.
const PATIENCE: Duration = Duration::from_secs(60);
/// The names of data sets that are known.
const KNOWN: [(&str, DatasetKind); 8] = [
    ("mnist", DatasetKind::Mnist),
    ("mnist-10k", DatasetKind::Mnist10k),
    ("cifar-10", DatasetKind::Cifar10),
    ("cifar10", DatasetKind::Cifar10),
    ("flowers-102", DatasetKind::Flowers102),
    ("flowers102", DatasetKind::Flowers102),
    ("flowers", DatasetKind::Flowers102),
    ("oxford-flowers-102", DatasetKind::Flowers102),
];

/// What was found.
pub struct Look {
    /// The set and its place.
    pub data: DataConfig,
    /// The side of the images in their files, in pixels: the median of their shorter sides.
    pub side: usize,
    /// Whether they are gray.
    pub is_gray: bool,
    /// What they are like in their files, unless the set is a known one.
    pub originals: Option<Originals>,
    /// All images.
    images: usize,
}

impl Look {
    /// Looks at `place`: a known data set, which is in `data` if that is given, or the place of any images.
    ///
    /// # Errors
    /// If there is nothing there, or no images.
    pub fn at(place: &Path, data: Option<&Path>, hub: &HubSettings) -> anyhow::Result<Self> {
        let known = place.to_str().filter(|_| !place.exists()).and_then(|name| {
            let is_it = |(known, _): &&(&str, _)| known.eq_ignore_ascii_case(name);
            KNOWN.iter().find(is_it).map(|&(_, kind)| kind)
        });
        let (kind, path) = match (known, data) {
            (Some(kind), data) => (kind, data.map(Path::to_owned)),
            (None, None) => {
                let kind = DatasetKind::at(place).map_err(|error| named(&error))?;
                (kind, Some(place.to_owned()))
            }
            (None, Some(_)) => bail!(
                "{} is itself the place of the data, so --data says it twice: leave out --data, or name a known set such as cifar-10",
                place.display()
            ),
        };
        match kind {
            DatasetKind::Folder => Self::at_files(path.unwrap_or_default(), hub),
            kind => {
                let (side, is_gray) = match kind {
                    DatasetKind::Mnist | DatasetKind::Mnist10k => (28, true),
                    DatasetKind::Cifar10 => (32, false),
                    _ => (500, false),
                };
                let data = DataConfig {
                    path,
                    ..DataConfig::new(kind, 32, if is_gray { 1 } else { 3 })
                };
                Ok(Self {
                    data,
                    side,
                    is_gray,
                    originals: None,
                    images: 0,
                })
            }
        }
    }

    /// Looks at any images.
    fn at_files(path: PathBuf, hub: &HubSettings) -> anyhow::Result<Self> {
        let data = DataConfig {
            path: Some(path),
            ..DataConfig::new(DatasetKind::Folder, 32, 3)
        };
        let read = DataConfig {
            stream: Some(true),
            max_undecodable: 1.0,
            ..data.clone()
        };
        // What there is to be warned of is said when the set is opened for its training.
        let silent = tracing::subscriber::NoSubscriber::default();
        let datasets = tracing::subscriber::with_default(silent, || {
            kiln_hub::open_data_set(&read, hub, &DataProgress::default())
        })
        .map_err(|error| named(&error))?;
        let images = datasets.train.len() + datasets.validation.len();
        let Some(originals) = datasets.train.originals(LOOKED_AT) else {
            // Says why.
            kiln_hub::open_data_set(&data, hub, &DataProgress::default())?;
            bail!(
                "none of {} images of {} that kiln looked at can be decoded: repair or remove them",
                LOOKED_AT.min(datasets.train.len()),
                datasets.train.name()
            );
        };
        ensure!(
            originals.side > 1,
            "the images of {} are {} pixel wide or high, which leaves nothing to learn: give it larger images",
            datasets.train.name(),
            originals.side
        );
        Ok(Self {
            data,
            side: originals.side,
            is_gray: originals.is_gray,
            originals: Some(originals),
            images,
        })
    }

    /// The time to decode all images.
    pub fn time_to_decode(&self) -> Duration {
        let each = self
            .originals
            .as_ref()
            .map(|originals| originals.time_of_each);
        each.unwrap_or_default()
            .saturating_mul(u32::try_from(self.images).unwrap_or(u32::MAX))
    }

    /// Whether that is too long to wait for here.
    pub fn takes_long_to_decode(&self) -> bool {
        self.time_to_decode() > PATIENCE
    }
}

/// The error about a place that is named here, not by `--data`.
fn named(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow!(error.to_string().replace("pass --data with", "name"))
}

#[cfg(test)]
impl Look {
    /// Gray images of this side.
    pub fn of_side(side: usize) -> Self {
        Self {
            data: DataConfig::new(DatasetKind::Mnist10k, 32, 1),
            side,
            is_gray: true,
            originals: None,
            images: 0,
        }
    }
}
