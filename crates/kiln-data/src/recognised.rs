//! Which of the known data sets is at a path, by the names of its files where each of them looks for them.

use std::path::Path;

use crate::config::is_on_the_hub;
use crate::contents::list;
use crate::dataset_kind::DatasetKind;
use crate::error::DataError;
use crate::{cifar, flowers, mnist, shards, table};

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
        Ok(if flowers::is_at(path, &listing.entries) {
            Self::Flowers102
        } else if mnist::is_at(path) {
            Self::Mnist
        } else if cifar::is_among(&listing.entries) {
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
            (
                vec!["102flowers.tgz", "imagelabels.mat", "setid.mat"],
                DatasetKind::Flowers102,
            ),
            (vec!["train-images-idx3-ubyte.gz"], DatasetKind::Mnist),
            (
                vec!["MNIST/raw/train-images.idx3-ubyte"],
                DatasetKind::Mnist,
            ),
            (
                vec!["cifar-10-batches-bin/test_batch.bin"],
                DatasetKind::Cifar10,
            ),
            (vec!["cifar-10-binary.tar.gz"], DatasetKind::Cifar10),
            // Where the readers of these data sets do not look.
            (
                vec!["a.png", "old/train-images-idx3-ubyte.gz"],
                DatasetKind::Folder,
            ),
            (
                vec!["a.png", "imagelabels.mat", "setid.mat"],
                DatasetKind::Folder,
            ),
            (vec!["test_batch.bin.gz"], DatasetKind::Folder),
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
        // The labels of Flowers 102 may be beside its images.
        let mut files = Files::default();
        for name in ["jpg/image_00001.jpg", "imagelabels.mat", "setid.mat"] {
            files.add(name, examples::png(1));
        }
        let folder = files.folder();
        let kind = DatasetKind::at(&folder.path().join("jpg"));
        assert_eq!(kind.unwrap(), DatasetKind::Flowers102);
        let at = |path: &str| DatasetKind::at(Path::new(path));
        assert_eq!(at("hf:some/set").unwrap(), DatasetKind::Folder);
        assert_eq!(at("data/{0..9}.tar").unwrap(), DatasetKind::Folder);
        assert!(matches!(at("no/such/place"), Err(DataError::Missing(_))));
    }
}
