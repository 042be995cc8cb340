//! From the files that a source found to a data set: every image is decoded once, and kept where there is room.

use std::path::PathBuf;
use std::sync::Arc;

use image::{DynamicImage, GrayImage, RgbImage};
use rayon::prelude::*;

use crate::config::DataConfig;
use crate::contents::Content;
use crate::dataset::{Datasets, Description, Fingerprint, ImageDataset, ImageShape, Storage};
use crate::decode;
use crate::error::DataError;
use crate::progress::{Progress, ProgressUnit, Task};

/// Both sets together are kept in memory up to this many bytes of decoded pixels.
pub(crate) const MEMORY_BUDGET: usize = 1 << 30;
/// Images decoded between two looks at the results: enough for all cores, little memory.
const CHUNK: usize = 512;
/// How many undecodable files the error lists.
const LISTED: usize = 10;

/// What a source found, before any image is decoded.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) class_names: Vec<String>,
    /// The images come at `size - 2 * border` and are padded.
    pub(crate) border: usize,
    pub(crate) train: Vec<Item>,
    pub(crate) validation: Vec<Item>,
}

/// One image that a source found.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) label: Option<u32>,
    pub(crate) picture: Picture,
}

/// Where an image comes from.
#[derive(Debug, Clone)]
pub(crate) enum Picture {
    /// An image file.
    Encoded { name: String, content: Content },
    /// Pixels `[channels, height, width]` of 0..=255, `start` bytes into a file that is in memory.
    Pixels {
        bytes: Arc<[u8]>,
        start: usize,
        shape: ImageShape,
    },
}

impl Item {
    pub(crate) fn name(&self) -> String {
        match &self.picture {
            Picture::Encoded { name, .. } => name.clone(),
            Picture::Pixels { start, shape, .. } => {
                format!("image {}", start / shape.elements().max(1))
            }
        }
    }

    /// The image as `[channels, height, width]` of 0..=255, or what is wrong with it.
    pub(crate) fn load(&self, shape: ImageShape, border: usize) -> Result<Vec<u8>, String> {
        let image = match &self.picture {
            Picture::Encoded { content, .. } => {
                decode::decode(&content.read().map_err(|error| error.to_string())?)?
            }
            Picture::Pixels {
                bytes,
                start,
                shape,
            } => {
                let planes = bytes.get(*start..start.saturating_add(shape.elements()));
                planes
                    .and_then(|planes| from_planes(planes, *shape))
                    .ok_or("it is cut short")?
            }
        };
        Ok(decode::fit(image, shape, border))
    }
}

/// `[channels, height, width]` to an image.
fn from_planes(planes: &[u8], shape: ImageShape) -> Option<DynamicImage> {
    let (width, height) = (
        u32::try_from(shape.width).ok()?,
        u32::try_from(shape.height).ok()?,
    );
    if shape.channels == 1 {
        return GrayImage::from_raw(width, height, planes.to_vec()).map(DynamicImage::from);
    }
    let (red, rest) = planes.split_at_checked(shape.height * shape.width)?;
    let (green, blue) = rest.split_at_checked(shape.height * shape.width)?;
    let pixels = red
        .iter()
        .zip(green)
        .zip(blue)
        .flat_map(|((&r, &g), &b)| [r, g, b])
        .collect();
    RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
}

/// Decodes what was found into a training and a validation set; see [`crate::open`].
pub(crate) fn load(
    found: Found,
    config: &DataConfig,
    memory_budget: usize,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    let total = found.train.len() + found.validation.len();
    if found.train.is_empty() || found.validation.is_empty() {
        return Err(DataError::TooFew {
            path: found.path,
            count: total,
        });
    }
    let description = Description {
        name: found.name,
        class_names: found.class_names,
        shape: config.shape(),
        border: found.border,
        horizontal_flip: config.horizontal_flip,
    };
    let task = format!("decoding {}", description.name);
    let task = Task::begin(progress, &task, ProgressUnit::Images, Some(total as u64));
    let keep = total.saturating_mul(description.shape.elements()) <= memory_budget;
    let mut undecodable = Vec::new();
    let mut load = |items| load_one(items, description.clone(), keep, &mut undecodable, &task);
    let train = load(found.train);
    let validation = load(found.validation);
    if undecodable.len() as f64 > total as f64 * f64::from(config.max_undecodable) {
        let failed = undecodable.len();
        undecodable.truncate(LISTED);
        let allowed = config.max_undecodable;
        return Err(DataError::Undecodable {
            failed,
            total,
            allowed,
            first: undecodable,
        });
    }
    if train.is_empty() || validation.is_empty() {
        let count = train.len() + validation.len();
        return Err(DataError::TooFew {
            path: found.path,
            count,
        });
    }
    Ok(Datasets { train, validation })
}

/// Decodes one set, leaving out what cannot be decoded: such files are added to `undecodable`.
fn load_one(
    items: Vec<Item>,
    description: Description,
    keep: bool,
    undecodable: &mut Vec<String>,
    task: &Task<'_>,
) -> ImageDataset {
    let (shape, border) = (description.shape, description.border);
    let mut fingerprint = Fingerprint::new(shape);
    let mut pixels = Vec::with_capacity(if keep {
        items.len() * shape.elements()
    } else {
        0
    });
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
                    if keep {
                        pixels.extend_from_slice(&image);
                    }
                    usable.push(item);
                }
                Err(reason) => {
                    let name = item.name();
                    tracing::warn!("left out {name}, which cannot be decoded: {reason}");
                    undecodable.push(format!("{name} ({reason})"));
                }
            }
        }
        task.advance(chunk.len() as u64);
    }
    let labels = usable.iter().map(|item| item.label).collect();
    let storage = if keep {
        Storage::Decoded(pixels)
    } else {
        Storage::Encoded(usable.into_iter().cloned().collect())
    };
    ImageDataset::new(description, labels, storage, fingerprint)
}
