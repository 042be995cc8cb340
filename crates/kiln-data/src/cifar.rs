//! CIFAR-10: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
//!
//! The official binary archive holds five training batches and a test batch: 10,000 records of one byte for the label
//! and 3,072 for the pixels `[3, 32, 32]`. The same images also go round as a folder per class.

use std::path::Path;
use std::sync::Arc;

use crate::contents::{Content, Entry, list};
use crate::dataset::ImageShape;
use crate::error::DataError;
use crate::folder::{Layout, arrange};
use crate::loading::{Found, Item, Picture};

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

/// Finds CIFAR-10 in the official binary archive, in a folder that holds it or its content, or in a folder or archive
/// with `train/` and `test/` and a folder per class.
pub(crate) fn find(path: &Path) -> Result<Found, DataError> {
    let mut entries = list(path)?;
    if let Some(archive) = entries.iter().find(|entry| entry.file_name() == ARCHIVE)
        && let Content::File(archive) = &archive.content
    {
        entries = list(archive)?;
    }
    let found = |class_names, train, validation| Found {
        path: path.to_owned(),
        name: "cifar-10".to_owned(),
        class_names,
        border: 0,
        train,
        validation,
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
        ));
    }
    match arrange(entries) {
        Layout {
            class_names,
            train,
            validation: Some(validation),
        } if class_names.len() == CLASS_NAMES.len() => Ok(found(class_names, train, validation)),
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
