//! Which of the known data sets is at a path, by the names of its files.

use std::path::Path;

use crate::config::is_on_the_hub;
use crate::contents::list;
use crate::dataset_kind::DatasetKind;
use crate::error::DataError;
use crate::{shards, table};

impl DatasetKind {
    /// The known data set whose official files are at `path` (a folder or an archive), or [`DatasetKind::Folder`] for any
    /// other images. What is on the Hub, a table or a pattern of shards is of the latter kind, and is not read.
    ///
    /// # Errors
    /// If there is nothing at the path, or it cannot be read.
    pub fn at(path: &Path) -> Result<Self, DataError> {
        if is_on_the_hub(path) || shards::is_pattern(path) || table::is_table(path) {
            return Ok(Self::Folder);
        }
        let listing = list(path)?;
        let has = |name: &str| {
            let is_it = |file: &str| file.strip_suffix(".gz").unwrap_or(file) == name;
            (listing.entries.iter()).any(|entry| is_it(entry.file_name()))
        };
        Ok(if has("imagelabels.mat") && has("setid.mat") {
            Self::Flowers102
        } else if has("train-images-idx3-ubyte") && path.is_dir() {
            Self::Mnist
        } else if has("data_batch_1.bin") {
            Self::Cifar10
        } else {
            Self::Folder
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{self, Files};

    #[test]
    fn official_files_are_recognised_by_name() {
        for (names, kind) in [
            (
                vec!["jpg/image_00001.jpg", "imagelabels.mat", "setid.mat"],
                DatasetKind::Flowers102,
            ),
            (vec!["train-images-idx3-ubyte.gz"], DatasetKind::Mnist),
            (vec!["train-images-idx3-ubyte"], DatasetKind::Mnist),
            (
                vec!["cifar-10-batches-bin/data_batch_1.bin"],
                DatasetKind::Cifar10,
            ),
            (vec!["cat/a.png", "dog/b.png"], DatasetKind::Folder),
            (vec![], DatasetKind::Folder),
        ] {
            let mut files = Files::default();
            for name in &names {
                files.add(name, examples::png(1));
            }
            let folder = files.folder();
            assert_eq!(DatasetKind::at(folder.path()).unwrap(), kind, "{names:?}");
        }
        let at = |path: &str| DatasetKind::at(Path::new(path));
        assert_eq!(at("hf:some/set").unwrap(), DatasetKind::Folder);
        assert_eq!(at("data/{0..9}.tar").unwrap(), DatasetKind::Folder);
        assert!(matches!(at("no/such/place"), Err(DataError::Missing(_))));
    }
}
