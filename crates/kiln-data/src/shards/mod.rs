//! Data sets in shards: files with thousands of images each, which are read one after the other while a training goes on,
//! so that the memory does not grow with the set.
//!
//! ```text
//! files.rs   which files are the shards, and which of them are for validation
//! shard.rs   one shard, a tar archive or a Parquet table: its images and their classes
//! set.rs     the images of all shards by their index, with the shards that are open
//! ```
//!
//! The order in which training sees them is in `passes.rs`.

mod files;
pub(crate) mod set;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

pub(crate) use self::files::{Files, is_pattern, of_folder, of_pattern};
use self::set::{Piece, Pieces, Shards, hold_out};
pub(crate) use self::shard::{Elsewhere, Form, Place, Shard};
use crate::config::DataConfig;
use crate::dataset::{Datasets, Description, Fingerprint, ImageDataset, Storage};
use crate::error::DataError;
use crate::names;
use crate::passes::Passes;
use crate::progress::{Progress, ProgressUnit, Task};
use crate::undecodable::Undecodable;

/// How many damaged shards an error lists.
const LISTED: usize = 10;

/// Opens a data set in tar archives, the `files`, which are what is at `path`.
pub(crate) fn open(
    path: &Path,
    files: &Files,
    config: &DataConfig,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    let name = name_of(path);
    let all: Vec<&PathBuf> = files.train.iter().chain(&files.validation).collect();
    let task = format!("looking through the {} shards of {name}", all.len());
    let task = Task::begin(progress, &task, ProgressUnit::Work, Some(all.len() as u64));
    let indexed: Vec<_> = all
        .par_iter()
        .map(|path| {
            let shard = Shard::index(path);
            task.advance(1);
            shard
        })
        .collect();
    drop(task);
    let (mut shards, mut classes, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_training = 0;
    for (place, indexed) in indexed.into_iter().enumerate() {
        match indexed {
            Ok((shard, of_images)) => {
                of_training += usize::from(place < files.train.len());
                shards.push(shard);
                classes.push(of_images);
            }
            Err(error) => {
                tracing::warn!("left out a shard: {error}");
                damaged.push(error.to_string());
            }
        }
    }
    if damaged.len() as f32 / all.len().max(1) as f32 > config.max_undecodable {
        return Err(DataError::Shards {
            failed: damaged.len(),
            total: all.len(),
            allowed: config.max_undecodable,
            first: damaged.into_iter().take(LISTED).collect(),
        });
    }
    let last = classes.iter().flatten().flatten().max();
    let class_names = last.map_or_else(Vec::new, |&last| {
        (0..=last).map(|class| class.to_string()).collect()
    });
    let datasets = datasets(
        Indexed {
            path: path.to_owned(),
            name,
            border: 0,
            of_training,
            shards,
            classes,
            class_names,
        },
        config,
    )?;
    match config.stream {
        Some(false) => datasets.in_memory(progress),
        Some(true) | None => Ok(datasets),
    }
}

/// The shards of a data set, when it is known what is in them.
pub(crate) struct Indexed {
    /// What the user named.
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// See [`ImageDataset::border`].
    pub(crate) border: usize,
    /// How many of the shards, from the first, are to learn from. If all are, a share of them is held out.
    pub(crate) of_training: usize,
    pub(crate) shards: Vec<Shard>,
    /// The class of each image of each shard.
    pub(crate) classes: Vec<Vec<Option<u32>>>,
    pub(crate) class_names: Vec<String>,
}

/// Divides indexed shards into images to learn from and images to measure on.
pub(crate) fn datasets(indexed: Indexed, config: &DataConfig) -> Result<Datasets, DataError> {
    let Indexed {
        path,
        name,
        border,
        of_training,
        shards,
        classes,
        mut class_names,
    } = indexed;
    let sizes: Vec<u32> = shards.iter().map(|shard| shard.images).collect();
    let images: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
    if images > u64::from(u32::MAX) {
        return Err(DataError::Unusable {
            path,
            problem: format!(
                "has {images} images, and kiln counts up to {}: name fewer shards",
                u32::MAX
            ),
        });
    }
    let [train, validation] = match of_training == shards.len() {
        true => hold_out(&sizes, config.validation_fraction),
        false => {
            let whole = |shards: std::ops::Range<usize>| -> Vec<Piece> {
                let piece = |shard| Piece {
                    shard,
                    images: 0..sizes[shard],
                };
                shards.map(piece).collect()
            };
            [whole(0..of_training), whole(of_training..sizes.len())]
        }
    };
    if train.is_empty() || validation.is_empty() {
        return Err(DataError::TooFew {
            path,
            count: images as usize,
            skipped: String::new(),
        });
    }
    let unlabelled = unlabelled(&name, &shards, &classes);
    if unlabelled.is_some() || classes.iter().flatten().all(Option::is_none) {
        class_names.clear();
    }
    let description = Description {
        name,
        class_names,
        shape: config.shape(),
        border,
        horizontal_flip: config.horizontal_flip,
        unlabelled,
    };
    let shards = Arc::new(Shards::new(shards, config.shuffle_buffer));
    let set = |pieces: Vec<Piece>| {
        let mut fingerprint = Fingerprint::new(description.shape);
        for Piece { shard, images } in &pieces {
            let digest = &shards.list()[*shard].digest;
            fingerprint.add(format!("{digest} {images:?}\n").as_bytes());
        }
        let has_classes = !description.class_names.is_empty();
        let labels = has_classes.then(|| {
            let of_pieces = pieces.iter().flat_map(|Piece { shard, images }| {
                &classes[*shard][images.start as usize..images.end as usize]
            });
            of_pieces.map(|class| class.unwrap_or_default()).collect()
        });
        let passes = Passes::of_shards(
            pieces.iter().map(|piece| piece.images.len() as u32),
            config.shuffle_buffer,
        );
        let pieces = Pieces::new(shards.clone(), pieces);
        let undecodable = Undecodable::new(pieces.len(), config.max_undecodable);
        ImageDataset::new(
            description.clone(),
            labels,
            Storage::Shards(pieces, undecodable),
            passes,
            fingerprint,
        )
    };
    Ok(Datasets {
        train: set(train),
        validation: set(validation),
    })
}

/// A data set's name: that of its folder or file, without what follows a brace.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    let text = stem.to_string_lossy();
    let words = text.split('{').next().unwrap_or_default();
    match words.trim_end_matches(['-', '_', '.']) {
        "" => "shards".to_owned(),
        _ if !text.contains('{') => names::from_bytes(stem.as_encoded_bytes()),
        name => names::printable(name),
    }
}

/// The beginning of a sentence about images without a class, if some have one and others not.
fn unlabelled(name: &str, shards: &[Shard], classes: &[Vec<Option<u32>>]) -> Option<String> {
    let all = || classes.iter().flatten();
    let total = all().count();
    let without = all().filter(|class| class.is_none()).count();
    if without == 0 || without == total {
        return None;
    }
    let mut pairs = shards.iter().zip(classes);
    let first = pairs.find(|(_, classes)| classes.contains(&None));
    let sentence = format!(
        "{without} of {total} images of {name} {} no class (the first is in {})",
        if without == 1 { "has" } else { "have" },
        first.map_or_else(String::new, |(shard, _)| shard.name())
    );
    tracing::warn!("{sentence}, so the classes are not used");
    Some(sentence)
}

#[cfg(test)]
mod tests;
