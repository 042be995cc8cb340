//! From the files that a source found to a data set: all images are decoded and kept in memory if there is room, and
//! otherwise each time they are asked for.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::config::DataConfig;
use crate::contents::Skipped;
use crate::dataset::{Datasets, Description, Fingerprint, ImageDataset, Storage};
use crate::error::DataError;
use crate::item::Item;
use crate::kind::POINTER;
use crate::progress::{Progress, ProgressUnit, Task};
use crate::undecodable::Undecodable;

/// Both sets together are kept in memory up to this many bytes of decoded pixels.
pub(crate) const MEMORY_BUDGET: usize = 1 << 30;
/// Images decoded between two checks of the results: enough for all cores, little memory.
const CHUNK: usize = 512;
/// How many undecodable files the error lists.
const LISTED: usize = 10;

/// The findings of a source, before any image is decoded.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) class_names: Vec<String>,
    /// Images are scaled to `size - 2 * border` and padded.
    pub(crate) border: usize,
    pub(crate) train: Vec<Item>,
    pub(crate) validation: Vec<Item>,
    /// Entries that are not used.
    pub(crate) skipped: Skipped,
}

/// Decodes the findings into a training and a validation set; see [`crate::open`].
pub(crate) fn load(
    mut found: Found,
    config: &DataConfig,
    memory_budget: usize,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    let total = found.train.len() + found.validation.len();
    let too_few = |path, count, skipped: &Skipped| {
        let skipped = match skipped.is_empty() {
            true => String::new(),
            false => format!(" ({skipped})"),
        };
        DataError::TooFew {
            path,
            count,
            skipped,
        }
    };
    if found.train.is_empty() || found.validation.is_empty() {
        return Err(too_few(found.path, total, &found.skipped));
    }
    if !found.skipped.is_empty() {
        tracing::warn!("{}: {}", found.name, found.skipped);
    }
    let unlabelled = drop_some_labels(&mut found);
    let description = Description {
        name: found.name,
        class_names: found.class_names,
        shape: config.shape(),
        border: found.border,
        horizontal_flip: config.horizontal_flip,
        unlabelled,
    };
    let task = format!("decoding {}", description.name);
    let task = Task::begin(progress, &task, ProgressUnit::Images, Some(total as u64));
    let is_small = total.saturating_mul(description.shape.elements()) <= memory_budget;
    let keep = match config.stream {
        Some(stream) => !stream,
        None => is_small,
    };
    if !keep {
        drop(task);
        let [train, validation] = [found.train, found.validation]
            .map(|items| on_request(items, description.clone(), config));
        return Ok(Datasets {
            train: train?,
            validation: validation?,
        });
    }
    let mut undecodable = Vec::new();
    let mut load = |items| load_one(items, description.clone(), &mut undecodable, &task);
    let train = load(found.train);
    let validation = load(found.validation);
    if undecodable.len() as f32 / total as f32 > config.max_undecodable {
        let failed = undecodable.len();
        if undecodable.iter().all(|(_, reason)| reason == POINTER) {
            return Err(DataError::Unusable {
                path: found.path,
                problem: format!(
                    "holds {failed} Git LFS pointers instead of images: run `git lfs pull` in its repository"
                ),
            });
        }
        let first = undecodable.into_iter().take(LISTED);
        let first = first.map(|(name, reason)| format!("{name} ({reason})"));
        let allowed = config.max_undecodable;
        return Err(DataError::Undecodable {
            failed,
            total,
            allowed,
            first: first.collect(),
        });
    }
    if train.is_empty() || validation.is_empty() {
        let count = train.len() + validation.len();
        return Err(too_few(found.path, count, &found.skipped));
    }
    Ok(Datasets { train, validation })
}

/// If only some images have a class, drops all classes, and reports how many have none and which is the first.
fn drop_some_labels(found: &mut Found) -> Option<String> {
    let all = || found.train.iter().chain(&found.validation);
    let total = all().count();
    let mut without = all().filter(|item| item.label.is_none());
    let first = without.next()?.name();
    let count = 1 + without.count();
    if count == total {
        found.class_names.clear();
        return None;
    }
    let has = if count == 1 { "has" } else { "have" };
    let sentence = format!(
        "{count} of {total} images of {} {has} no class (the first is {first})",
        found.name
    );
    tracing::warn!("{sentence}, so the classes are not used");
    found.class_names.clear();
    for item in found.train.iter_mut().chain(&mut found.validation) {
        item.label = None;
    }
    Some(sentence)
}

/// Decodes one set. Files that cannot be decoded are left out and added to `undecodable`, with the reason.
fn load_one(
    items: Vec<Item>,
    description: Description,
    undecodable: &mut Vec<(String, String)>,
    task: &Task<'_>,
) -> ImageDataset {
    let (shape, border) = (description.shape, description.border);
    let mut fingerprint = Fingerprint::new(shape);
    let mut pixels = Vec::with_capacity(items.len() * shape.elements());
    let mut usable = Vec::with_capacity(items.len());
    for chunk in items.chunks(CHUNK) {
        let images: Vec<_> = chunk
            .par_iter()
            .map(|item| item.load(shape, border))
            .collect();
        for (item, image) in chunk.iter().zip(images) {
            match image {
                Ok(image) => {
                    fingerprint.add(&image);
                    pixels.extend_from_slice(&image);
                    usable.push(item.label);
                }
                Err(problem) => {
                    let (name, reason) = (item.name(), problem.to_string());
                    tracing::warn!("left out {name}, which cannot be decoded: {reason}");
                    undecodable.push((name, reason));
                }
            }
        }
        task.advance(chunk.len() as u64);
    }
    let passes = usable.len().into();
    let labels = usable.into_iter().collect();
    ImageDataset::new(
        description,
        labels,
        Storage::Decoded(pixels),
        passes,
        fingerprint,
    )
}

/// A set whose images are decoded each time they are asked for. It is identified by their names and lengths.
fn on_request(
    items: Vec<Item>,
    description: Description,
    config: &DataConfig,
) -> Result<ImageDataset, DataError> {
    let mut fingerprint = Fingerprint::new(description.shape);
    for item in &items {
        let (name, length) = (item.name(), item.size());
        let length = length.map_err(|error| DataError::reading(Path::new(&name), error))?;
        fingerprint.add(format!("{} {name} {length} {:?}\n", name.len(), item.label).as_bytes());
    }
    let labels = items.iter().map(|item| item.label).collect();
    let undecodable = Undecodable::new(items.len(), config.max_undecodable);
    let passes = items.len().into();
    let storage = Storage::Encoded(items, undecodable);
    Ok(ImageDataset::new(
        description,
        labels,
        storage,
        passes,
        fingerprint,
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::dataset_kind::DatasetKind;
    use crate::examples::{self, Files};
    use crate::progress::NoProgress;
    use crate::{DataConfig, folder};

    fn config(channels: usize) -> DataConfig {
        DataConfig {
            validation_fraction: 0.25,
            ..DataConfig::new(DatasetKind::Folder, 8, channels)
        }
    }

    fn load_files(
        files: &Files,
        config: &DataConfig,
        budget: usize,
    ) -> Result<Datasets, DataError> {
        let folder = files.folder();
        load(
            folder::find(folder.path(), 0.25)?,
            config,
            budget,
            &NoProgress,
        )
    }

    #[test]
    fn a_large_set_is_decoded_when_asked_and_is_otherwise_the_same() {
        let folder = examples::classes(&["cat", "dog"], 6).folder();
        let found = || folder::find(folder.path(), 0.25).unwrap();
        let kept = load(found(), &config(3), 12 * 192, &NoProgress).unwrap();
        let lazy = load(found(), &config(3), 12 * 192 - 1, &NoProgress).unwrap();
        assert!(kept.train.is_decoded() && !lazy.train.is_decoded());
        for (kept, lazy) in [(kept.train, lazy.train), (kept.validation, lazy.validation)] {
            assert_eq!(kept.len(), lazy.len());
            for index in 0..kept.len() {
                assert_eq!(kept.label(index), lazy.label(index));
                for flip in [false, true] {
                    assert_eq!(
                        kept.image(index, flip).unwrap(),
                        lazy.image(index, flip).unwrap()
                    );
                }
            }
        }
    }

    #[test]
    fn a_set_that_is_not_decoded_is_known_by_names_and_lengths_wherever_it_is() {
        let files = examples::classes(&["cat", "dog"], 6);
        let fingerprint = |files: &Files| {
            let sets = load_files(files, &config(3), 0).unwrap();
            [sets.train, sets.validation].map(|set| set.fingerprint().to_owned())
        };
        assert_eq!(fingerprint(&files), fingerprint(&files));
        let mut longer = files.clone();
        longer.add("cat/000.png", [&examples::png(1)[..], b"more"].concat());
        assert_ne!(fingerprint(&files), fingerprint(&longer));
        let kept = load_files(&files, &config(3), MEMORY_BUDGET).unwrap();
        assert_ne!(fingerprint(&files)[0], kept.train.fingerprint());
    }

    #[test]
    fn a_file_that_goes_away_is_an_error_that_names_it() {
        let folder = examples::classes(&["cat"], 4).folder();
        let lazy = load(
            folder::find(folder.path(), 0.25).unwrap(),
            &config(1),
            0,
            &NoProgress,
        )
        .unwrap();
        std::fs::remove_dir_all(folder.path().join("cat")).unwrap();
        let error = lazy.train.image(0, false).unwrap_err().to_string();
        assert!(
            error.contains("cat/") && error.contains("do not move the data"),
            "{error}"
        );
    }

    #[test]
    fn a_few_bad_files_are_left_out_with_their_labels() {
        let mut files = examples::classes(&["cat", "dog"], 100);
        files.add("cat/050.png", b"not an image at all".to_vec());
        files.add("dog/051.png", Vec::new());
        let datasets = load_files(&files, &config(1), MEMORY_BUDGET).unwrap();
        let labels =
            |set: &ImageDataset| -> Vec<_> { (0..set.len()).map(|i| set.label(i)).collect() };
        let all = [labels(&datasets.train), labels(&datasets.validation)].concat();
        assert_eq!(all.len(), 198);
        assert_eq!(all.iter().filter(|&&label| label == Some(0)).count(), 99);
        // Each label still belongs to its image: `classes` draws cats darker than dogs.
        for index in 0..datasets.train.len() {
            let first = datasets.train.image(index, false).unwrap()[0];
            assert_eq!(datasets.train.label(index), Some(usize::from(first > -0.5)));
        }
    }

    #[test]
    fn too_many_bad_files_are_an_error_that_lists_ten() {
        let mut files = examples::classes(&["cat"], 88);
        for index in 0..12 {
            files.add(&format!("cat/bad{index:02}.png"), b"not an image".to_vec());
        }
        let error = load_files(&files, &config(1), MEMORY_BUDGET).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("12 of 100 images"), "{message}");
        let DataError::Undecodable {
            failed: 12,
            total: 100,
            first,
            ..
        } = error
        else {
            panic!("{message}");
        };
        assert_eq!(first.len(), 10);
        assert!(
            first.iter().all(|name| name.starts_with("cat/bad")),
            "{first:?}"
        );

        let lenient = DataConfig {
            max_undecodable: 0.12,
            ..config(1)
        };
        let datasets = load_files(&files, &lenient, MEMORY_BUDGET).unwrap();
        assert_eq!(datasets.train.len() + datasets.validation.len(), 88);
    }

    #[test]
    fn too_few_images_for_two_sets_are_an_error() {
        let mut files = Files::default();
        let count = |files: &Files| match load_files(files, &config(1), MEMORY_BUDGET) {
            Err(DataError::TooFew { count, .. }) => Some(count),
            _ => None,
        };
        assert_eq!(count(&files), Some(0));
        files.add("one.png", examples::png(0));
        assert_eq!(count(&files), Some(1));
        files.add("two.png", examples::png(1));
        assert_eq!(count(&files), None);
    }

    #[test]
    fn fingerprints_tell_pixels_and_shapes_apart() {
        let fingerprint = |files: &Files, channels| {
            let datasets = load_files(files, &config(channels), MEMORY_BUDGET).unwrap();
            datasets.train.fingerprint().to_owned()
        };
        let files = examples::classes(&["cat"], 8);
        assert_eq!(fingerprint(&files, 1), fingerprint(&files, 1));
        assert_ne!(fingerprint(&files, 1), fingerprint(&files, 3));
        assert_ne!(
            fingerprint(&files, 1),
            fingerprint(&examples::classes(&["cat", "dog"], 4), 1)
        );
        assert_eq!(fingerprint(&files, 1).len(), 64);
    }

    #[test]
    fn progress_counts_every_image_and_ends() {
        #[derive(Default)]
        struct Recorder(Mutex<Vec<String>>);
        impl Progress for Recorder {
            fn begin(&self, task: &str, unit: ProgressUnit, total: Option<u64>) {
                self.0
                    .lock()
                    .unwrap()
                    .push(format!("{task} {unit:?} {total:?}"));
            }
            fn advance(&self, amount: u64) {
                self.0.lock().unwrap().push(format!("+{amount}"));
            }
            fn end(&self) {
                self.0.lock().unwrap().push("end".to_owned());
            }
        }
        let folder = examples::classes(&["cat"], 8).folder();
        let recorder = Recorder::default();
        let mut found = folder::find(folder.path(), 0.25).unwrap();
        found.name = "pets".to_owned();
        load(found, &config(1), MEMORY_BUDGET, &recorder).unwrap();
        let events = recorder.0.into_inner().unwrap();
        assert_eq!(events, ["decoding pets Images Some(8)", "+6", "+2", "end"]);
    }
}
