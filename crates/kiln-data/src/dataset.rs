//! The form in which all other code gets images.

use std::borrow::Cow;
use std::sync::Arc;

use image::DynamicImage;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::decode::{decode, decode_to};
use crate::digest::hexadecimal;
use crate::error::DataError;
use crate::image_shape::ImageShape;
use crate::item::Item;
use crate::passes::{Ahead, Passes};
use crate::progress::{NoProgress, Progress, ProgressUnit, Task};
use crate::shards::set::Pieces;
use crate::undecodable::{Undecodable, Unloaded};

/// Images that are decoded between two messages about the progress.
const CHUNK: usize = 512;

/// A training set and a validation set of the same shape and classes.
#[derive(Clone, Debug)]
pub struct Datasets {
    /// The images to learn from.
    pub train: ImageDataset,
    /// The images to measure on.
    pub validation: ImageDataset,
}

/// Images of one shape, each with or without a label. Cloning it copies a pointer.
#[derive(Clone, Debug)]
pub struct ImageDataset(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    description: Description,
    labels: Option<Vec<u32>>,
    storage: Storage,
    passes: Passes,
    fingerprint: String,
}

/// The properties of a set, without its images.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) class_names: Vec<String>,
    pub(crate) shape: ImageShape,
    pub(crate) border: usize,
    pub(crate) horizontal_flip: bool,
    pub(crate) unlabelled: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Storage {
    /// The images one after the other, each `[channels, height, width]` of 0..=255.
    Decoded(Vec<u8>),
    /// Too many for the memory: each is decoded on request.
    Encoded(Vec<Item>, Undecodable),
    /// In shards: each is decoded on request.
    Shards(Pieces, Undecodable),
}

/// Computes the SHA-256 of a set's shape and of what identifies its images: the pixels of a set in memory; names and
/// lengths for others.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn new(shape: ImageShape) -> Self {
        let mut hash = Sha256::new();
        for side in [shape.channels, shape.height, shape.width] {
            hash.update((side as u64).to_le_bytes());
        }
        Self(hash)
    }

    pub(crate) fn add(&mut self, pixels: &[u8]) {
        self.0.update(pixels);
    }

    pub(crate) fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

impl Datasets {
    /// The same images in the same order, decoded and kept in memory.
    pub(crate) fn in_memory(self, progress: &dyn Progress) -> Result<Self, DataError> {
        let images = self.train.len() + self.validation.len();
        let task = format!("decoding {}", self.train.name());
        let task = Task::begin(progress, &task, ProgressUnit::Images, Some(images as u64));
        Ok(Self {
            train: self.train.in_memory(&task)?,
            validation: self.validation.in_memory(&task)?,
        })
    }
}

impl ImageDataset {
    fn in_memory(&self, task: &Task<'_>) -> Result<Self, DataError> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.kept(&all, self.passes(), task)
    }

    /// The first `most` images that a training with seed 0 sees, decoded and kept in memory, with their classes. It serves
    /// to try something on a few images; its fingerprint is that of the whole set.
    ///
    /// # Errors
    /// The errors of [`Self::image`].
    pub fn excerpt(&self, most: usize) -> Result<Self, DataError> {
        let mut order = self.passes().order(0, 0);
        let count = most.min(self.len());
        let images: Vec<usize> = (0..count)
            .map(|place| order.image(place) as usize)
            .collect();
        let task = Task::begin(&NoProgress, "", ProgressUnit::Images, None);
        self.kept(&images, count.into(), &task)
    }

    /// Of the images with these indices, seen in `passes`.
    fn kept(&self, images: &[usize], passes: Passes, task: &Task<'_>) -> Result<Self, DataError> {
        let mut pixels = Vec::with_capacity(images.len() * self.shape().elements());
        for chunk in images.chunks(CHUNK) {
            let chunk: Result<Vec<_>, _> =
                chunk.par_iter().map(|&image| self.bytes(image)).collect();
            let chunk = chunk?;
            task.advance(chunk.len() as u64);
            chunk
                .iter()
                .for_each(|image| pixels.extend_from_slice(image));
        }
        let inner = &self.0;
        let labels = inner.labels.as_ref();
        Ok(Self(Arc::new(Inner {
            description: inner.description.clone(),
            labels: labels.map(|labels| images.iter().map(|&image| labels[image]).collect()),
            storage: Storage::Decoded(pixels),
            passes,
            fingerprint: inner.fingerprint.clone(),
        })))
    }

    pub(crate) fn new(
        description: Description,
        labels: Option<Vec<u32>>,
        storage: Storage,
        passes: Passes,
        fingerprint: Fingerprint,
    ) -> Self {
        Self(Arc::new(Inner {
            description,
            labels,
            storage,
            passes,
            fingerprint: fingerprint.finish(),
        }))
    }

    /// A set made of pixels in memory: the images one after the other, each `[channels, height, width]` of 0..=255
    /// (0 is -1, 255 is 1). It has no classes, no border and is not mirrored.
    ///
    /// # Errors
    /// [`DataError::Count`] when the pixels do not make whole images, or the labels are not one per image.
    pub fn from_pixels(
        name: &str,
        shape: ImageShape,
        pixels: Vec<u8>,
        labels: Option<Vec<u32>>,
    ) -> Result<Self, DataError> {
        let elements = shape.elements();
        if elements == 0 || !pixels.len().is_multiple_of(elements) {
            let expected = format!("whole images of {shape:?}");
            return Err(DataError::Count {
                what: "pixels",
                given: pixels.len(),
                expected,
            });
        }
        let images = pixels.len() / elements;
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != images) {
            let expected = format!("one label for each of {images} images");
            return Err(DataError::Count {
                what: "labels",
                given: labels.len(),
                expected,
            });
        }
        let mut fingerprint = Fingerprint::new(shape);
        fingerprint.add(&pixels);
        let description = Description {
            name: name.to_owned(),
            class_names: Vec::new(),
            shape,
            border: 0,
            horizontal_flip: false,
            unlabelled: None,
        };
        Ok(Self::new(
            description,
            labels,
            Storage::Decoded(pixels),
            images.into(),
            fingerprint,
        ))
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        match &self.0.storage {
            Storage::Decoded(pixels) => pixels.len() / self.shape().elements(),
            Storage::Encoded(items, _) => items.len(),
            Storage::Shards(pieces, _) => pieces.len(),
        }
    }

    /// The order in which a training sees the images.
    pub fn passes(&self) -> Passes {
        let passes = self.0.passes.clone();
        match &self.0.storage {
            Storage::Shards(pieces, _) if pieces.shards.are_elsewhere() => {
                passes.telling(Arc::new(self.clone()))
            }
            _ => passes,
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.0.description.shape
    }

    /// The set's name, such as "mnist" or the folder's name.
    pub fn name(&self) -> &str {
        &self.0.description.name
    }

    /// The names of the classes, in the order of the labels; empty if there are no labels.
    pub fn class_names(&self) -> &[String] {
        &self.0.description.class_names
    }

    /// The class of an image, counted from 0; `None` if the set has no labels or no such image.
    pub fn label(&self, index: usize) -> Option<usize> {
        self.0
            .labels
            .as_ref()?
            .get(index)
            .map(|&label| label as usize)
    }

    /// Whether the set has labels.
    pub fn has_labels(&self) -> bool {
        self.0.labels.is_some()
    }

    /// Why the set has no labels although some of its images have a class: the beginning of a sentence that names the
    /// first image without one.
    pub fn unlabelled(&self) -> Option<&str> {
        self.0.description.unlabelled.as_deref()
    }

    /// Whether training mirrors half of the images, as set in the config.
    pub fn horizontal_flip(&self) -> bool {
        self.0.description.horizontal_flip
    }

    /// The black pixels that were added on each side, and are cropped from a model's pictures: 2 for MNIST at 32x32,
    /// otherwise 0.
    pub fn border(&self) -> usize {
        self.0.description.border
    }

    /// 64 hexadecimal digits that identify what was computed from this set: the SHA-256 of the shape and all pixels or, for
    /// a set that is not decoded at first, of the names and lengths of its files. The folder that they are in does not count.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Whether the images are kept in memory, so that reading one is a copy.
    pub fn is_decoded(&self) -> bool {
        matches!(self.0.storage, Storage::Decoded(_))
    }

    /// An image as it is in its file; `None` if the set is in memory, so that its files are out of reach.
    pub(crate) fn original(&self, index: usize) -> Option<Result<DynamicImage, Unloaded>> {
        match &self.0.storage {
            Storage::Decoded(_) => None,
            Storage::Encoded(items, _) => Some(items.get(index)?.original()),
            Storage::Shards(pieces, _) => {
                let opened = pieces.open(index).map_err(|error| error.to_string());
                Some(opened.map_err(Unloaded::from).and_then(|(shard, number)| {
                    let content = &shard.images[number].content;
                    Ok(decode(&content.read()?)?)
                }))
            }
        }
    }

    /// Whether images that are near each other are cheaper to read than others.
    pub(crate) fn is_in_shards(&self) -> bool {
        matches!(self.0.storage, Storage::Shards(..))
    }

    #[cfg(test)]
    pub(crate) fn pieces(&self) -> Option<&Pieces> {
        match &self.0.storage {
            Storage::Shards(pieces, _) => Some(pieces),
            _ => None,
        }
    }

    /// One image as `[channels, height, width]` in [-1, 1], mirrored left to right if `flipped`.
    ///
    /// # Errors
    /// [`DataError::Index`] for an index past the end; [`DataError::Undecodable`] if too many images cannot be decoded, which
    /// others took the place of; and those of reading a shard.
    pub fn image(&self, index: usize, flipped: bool) -> Result<Vec<f32>, DataError> {
        let mut pixels = vec![0.0; self.shape().elements()];
        self.read_into(index, flipped, &mut pixels)?;
        Ok(pixels)
    }

    /// One image as `[channels, height, width]` of 0..=255.
    fn bytes(&self, index: usize) -> Result<Cow<'_, [u8]>, DataError> {
        let shape = self.shape();
        let out_of_range = || DataError::Index {
            index,
            len: self.len(),
        };
        let is_alike = |other: &usize| self.label(*other) == self.label(index);
        Ok(match &self.0.storage {
            Storage::Decoded(pixels) => {
                let start = index.saturating_mul(shape.elements());
                let end = start.saturating_add(shape.elements());
                pixels.get(start..end).ok_or_else(out_of_range)?.into()
            }
            Storage::Encoded(items, undecodable) => {
                items.get(index).ok_or_else(out_of_range)?;
                let others = (index + 1..items.len()).chain(0..index);
                let loaded: Vec<u8> = undecodable.instead(
                    index,
                    others.filter(is_alike),
                    |image| items[image].name(),
                    |image| items[image].load(shape, self.border()),
                )?;
                loaded.into()
            }
            Storage::Shards(pieces, undecodable) => {
                let (shard, number) = pieces.open(index)?;
                let images = &shard.images;
                // The numbers of images of a piece differ by as much as their indices.
                let entry = |image: usize| &images[number + image - index];
                let others = pieces.others(index);
                let loaded: Vec<u8> = undecodable.instead(
                    index,
                    others.filter(is_alike),
                    |image| entry(image).name.clone(),
                    |image| {
                        let bytes = entry(image).content.read()?;
                        Ok(decode_to(&bytes, shape, self.border())?)
                    },
                )?;
                loaded.into()
            }
        })
    }

    /// Like [`ImageDataset::image`], into `target`, which has room for exactly one image.
    pub(crate) fn read_into(
        &self,
        index: usize,
        flipped: bool,
        target: &mut [f32],
    ) -> Result<(), DataError> {
        let width = self.shape().width;
        let pixels = self.bytes(index)?;
        for (target, source) in target.chunks_mut(width).zip(pixels.chunks(width)) {
            for (target, &source) in target.iter_mut().zip(source) {
                *target = f32::from(source) / 127.5 - 1.0;
            }
            if flipped {
                target.reverse();
            }
        }
        Ok(())
    }
}

impl Ahead for ImageDataset {
    fn expect(&self, shards: &[u32]) {
        if let Storage::Shards(pieces, _) = &self.0.storage {
            pieces.expect(shards);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: ImageShape = ImageShape {
        channels: 3,
        height: 2,
        width: 4,
    };

    fn dataset(pixels: Vec<u8>) -> ImageDataset {
        ImageDataset::from_pixels("test", SHAPE, pixels, None).unwrap()
    }

    #[test]
    fn black_is_minus_one_and_white_is_one() {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 2,
        };
        let dataset = ImageDataset::from_pixels("test", shape, vec![0, 255], None).unwrap();
        assert_eq!(dataset.image(0, false).unwrap(), [-1.0, 1.0]);
        assert_eq!(dataset.image(0, true).unwrap(), [1.0, -1.0]);
    }

    #[test]
    fn an_index_past_the_end_is_an_error() {
        let dataset = dataset(vec![0; 48]);
        assert_eq!(dataset.len(), 2);
        for index in [2, usize::MAX] {
            let error = dataset.image(index, false).unwrap_err();
            assert!(matches!(error, DataError::Index { len: 2, .. }), "{error}");
            assert_eq!(dataset.label(index), None);
        }
    }

    #[test]
    fn pixels_and_labels_have_to_fit() {
        let refused = |shape, pixels, labels| {
            let made = ImageDataset::from_pixels("test", shape, vec![0; pixels], labels);
            matches!(made, Err(DataError::Count { .. }))
        };
        assert!(refused(SHAPE, 25, None));
        assert!(refused(SHAPE, 48, Some(vec![1])));
        assert!(refused(ImageShape { width: 0, ..SHAPE }, 0, None));
        assert!(!refused(SHAPE, 48, Some(vec![1, 0])));
        assert!(!refused(SHAPE, 0, None));
    }

    #[test]
    fn an_excerpt_has_the_first_images_of_a_training_with_their_classes() {
        let pixels: Vec<u8> = (0..10).flat_map(|image| [image; 24]).collect();
        let labels = (0..10).map(|image| image % 3).collect();
        let whole = ImageDataset::from_pixels("test", SHAPE, pixels, Some(labels)).unwrap();
        let excerpt = whole.excerpt(4).unwrap();
        let order = crate::shuffled(10, 0, 0);
        assert_eq!((excerpt.len(), excerpt.passes().images()), (4, 4));
        for (place, &image) in order[..4].iter().enumerate() {
            let image = image as usize;
            assert_eq!(
                excerpt.image(place, false).unwrap(),
                whole.image(image, false).unwrap()
            );
            assert_eq!(excerpt.label(place), whole.label(image));
        }
        assert_eq!(whole.excerpt(99).unwrap().len(), 10);
        assert_eq!(whole.excerpt(0).unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn pixels_are_scaled_and_mirroring_reverses_rows(pixels in prop::collection::vec(any::<u8>(), 72)) {
            let dataset = dataset(pixels.clone());
            for index in 0..3 {
                let image = dataset.image(index, false).unwrap();
                let mirrored = dataset.image(index, true).unwrap();
                for (place, &value) in image.iter().enumerate() {
                    let byte = (value + 1.0) * 127.5;
                    prop_assert!((byte - f32::from(pixels[24 * index + place])).abs() < 1e-4);
                    let (row, column) = (place / 4, place % 4);
                    prop_assert_eq!(mirrored[4 * row + 3 - column], value);
                }
            }
        }
    }
}
