//! CIFAR-10: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
//!
//! The official binary archive holds five training batches and a test batch: 10,000 records of one byte for the label
//! and 3,072 for the pixels `[3, 32, 32]`. The same images also exist as a folder per class.

use std::path::Path;
use std::sync::Arc;

use crate::contents::{Content, Entry, Listing, Skipped, list};
use crate::error::DataError;
use crate::folder::{Layout, arrange};
use crate::image_shape::ImageShape;
use crate::item::{Item, Picture};
use crate::loading::Found;

const ARCHIVE: &str = "cifar-10-binary.tar.gz";
const TRAIN_BATCHES: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST_BATCH: &str = "test_batch.bin";
const CLASS_NAMES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];
const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 32,
    width: 32,
};
/// A label and an image.
const RECORD: usize = 1 + 3 * 32 * 32;

/// Whether the official binary archive or its content is among the files. (Folders of classes may be anybody's.)
pub(crate) fn is_among(entries: &[Entry]) -> bool {
    let is_official = |name: &str| name == ARCHIVE || name == TEST_BATCH;
    entries.iter().any(|entry| is_official(entry.file_name()))
}

/// Finds CIFAR-10 in the official binary archive, in a folder with the archive or its content, or in a folder or
/// archive with `train/` and `test/` and a folder per class.
pub(crate) fn find(path: &Path) -> Result<Found, DataError> {
    let mut listing = list(path)?;
    let is_archive = |entry: &&Entry| entry.file_name() == ARCHIVE;
    if let Some(archive) = listing.entries.iter().find(is_archive)
        && let Content::File(archive) = &archive.content
    {
        listing = list(archive)?;
    }
    let Listing {
        entries,
        mut skipped,
    } = listing;
    let found = |class_names, train, validation, skipped| Found {
        path: path.to_owned(),
        name: "cifar-10".to_owned(),
        class_names,
        border: 0,
        train,
        validation,
        skipped,
    };
    if entries.iter().any(|entry| entry.file_name() == TEST_BATCH) {
        let mut train = Vec::new();
        for batch in TRAIN_BATCHES {
            train.extend(read_batch(path, &entries, batch)?);
        }
        let validation = read_batch(path, &entries, TEST_BATCH)?;
        return Ok(found(
            CLASS_NAMES.map(str::to_owned).to_vec(),
            train,
            validation,
            Skipped::default(),
        ));
    }
    match arrange(entries, &mut skipped) {
        Layout {
            class_names,
            train,
            validation: Some(validation),
        } if class_names.len() == CLASS_NAMES.len() => {
            Ok(found(class_names, train, validation, skipped))
        }
        _ => Err(DataError::Unexpected {
            path: path.to_owned(),
            expected: format!(
                "CIFAR-10: {ARCHIVE} (not the Python version), its content, or train/ and test/ with ten folders each"
            ),
        }),
    }
}

fn read_batch(path: &Path, entries: &[Entry], name: &str) -> Result<Vec<Item>, DataError> {
    let damaged = |reason: String| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("{name} {reason}"),
    };
    let Some(entry) = entries.iter().find(|entry| entry.file_name() == name) else {
        return Err(damaged("is missing".to_owned()));
    };
    let bytes = entry
        .content
        .read()
        .map_err(|error| damaged(format!("cannot be read ({error})")))?;
    DataError::refuse_foreign(&path.join(name), &bytes)?;
    let bytes: Arc<[u8]> = bytes.into();
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(damaged(format!(
            "has {} bytes, not a multiple of {RECORD}",
            bytes.len()
        )));
    }
    let item = |(index, record): (usize, &[u8])| {
        let label = record.first().copied().unwrap_or(u8::MAX);
        if usize::from(label) >= CLASS_NAMES.len() {
            return Err(damaged(format!("has a label {label}")));
        }
        let start = index * RECORD + 1;
        let picture = Picture::Pixels {
            bytes: bytes.clone(),
            start,
            shape: SHAPE,
        };
        Ok(Item {
            label: Some(u32::from(label)),
            picture,
        })
    };
    bytes.chunks(RECORD).enumerate().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{self, Files, gzip};
    use crate::{DataConfig, DatasetKind, Datasets, NoProgress};

    /// Batches of two images each: the first of one colour, the second a gradient along the columns.
    fn small_cifar() -> Files {
        let mut files = Files::default();
        for (number, name) in TRAIN_BATCHES.into_iter().chain([TEST_BATCH]).enumerate() {
            let mut batch = vec![number as u8];
            for channel in [10, 20, 30] {
                batch.extend([channel + number as u8; 1024]);
            }
            batch.push(9);
            batch.extend((0..3072).map(|index| (index % 32) as u8));
            files.add(&format!("cifar-10-batches-bin/{name}"), batch);
        }
        files
    }

    fn open(path: &Path) -> Result<Datasets, DataError> {
        let path = Some(path.to_owned());
        crate::open(
            &DataConfig {
                path,
                ..DataConfig::new(DatasetKind::Cifar10, 32, 3)
            },
            &NoProgress,
        )
    }

    #[test]
    fn the_binary_archive_is_read_packed_and_unpacked() {
        let files = small_cifar();
        let unpacked = files.folder();
        let datasets = open(unpacked.path()).unwrap();
        assert_eq!((datasets.train.len(), datasets.validation.len()), (10, 2));
        assert_eq!(datasets.train.class_names(), CLASS_NAMES);
        assert_eq!(datasets.train.label(4), Some(2));
        assert_eq!(datasets.validation.label(1), Some(9));
        let image = datasets.train.image(4, false).unwrap();
        for (plane, value) in image.chunks(1024).zip([12.0, 22.0, 32.0]) {
            assert!(plane.iter().all(|&pixel| pixel == value / 127.5 - 1.0));
        }
        let gradient = datasets.validation.image(1, false).unwrap();
        assert_eq!(gradient[2 * 1024 + 5 * 32 + 7], 7.0 / 127.5 - 1.0);

        let packed = tempfile::tempdir().unwrap();
        let archive = packed.path().join(ARCHIVE);
        std::fs::write(&archive, gzip(&files.tar())).unwrap();
        for path in [&archive, packed.path()] {
            let again = open(path).unwrap();
            assert_eq!(again.train.fingerprint(), datasets.train.fingerprint());
            assert_eq!(
                again.validation.fingerprint(),
                datasets.validation.fingerprint()
            );
        }
    }

    #[test]
    fn class_folders_are_read() {
        let folders: Vec<String> = ["train", "test"]
            .iter()
            .flat_map(|split| CLASS_NAMES.map(|class| format!("cifar/{split}/{class}")))
            .collect();
        let files = examples::classes(&folders.iter().map(String::as_str).collect::<Vec<_>>(), 2);
        let datasets = open(files.folder().path()).unwrap();
        assert_eq!((datasets.train.len(), datasets.validation.len()), (20, 20));
        assert_eq!(datasets.train.class_names(), CLASS_NAMES);
        assert_eq!(datasets.train.label(19), Some(9));
    }

    #[test]
    fn damaged_batches_are_named() {
        let message = |files: &Files| open(files.folder().path()).unwrap_err().to_string();
        let name = "cifar-10-batches-bin/data_batch_3.bin";
        let mut files = small_cifar();
        files.add(name, vec![0; RECORD + 1]);
        assert!(
            message(&files).contains("data_batch_3.bin has 3074 bytes"),
            "{}",
            message(&files)
        );
        files.add(name, vec![10; RECORD]);
        assert!(
            message(&files).contains("data_batch_3.bin has a label 10"),
            "{}",
            message(&files)
        );
        files.remove(name);
        assert!(
            message(&files).contains("data_batch_3.bin is missing"),
            "{}",
            message(&files)
        );
    }

    #[test]
    fn something_else_is_not_cifar() {
        let error = open(examples::classes(&["cat", "dog"], 2).folder().path()).unwrap_err();
        assert!(error.to_string().contains(ARCHIVE), "{error}");
    }
}
