//! Real images, as the judge sees them.

use std::path::Path;

use burn::tensor::Device;
use kiln_data::ImageDataset;
use kiln_eval::{EvalError, Features, Judge, Seen};

use crate::{Error, Images};

/// Images that the judge looks at together.
const BATCH: usize = 64;

/// `count` images of a set, or all of them: spread evenly over it, since many data sets are sorted by class. Without the
/// border that was added for the network.
///
/// # Errors
/// [`Error::Data`] when an image's file is gone.
pub fn images_of(dataset: &ImageDataset, count: usize) -> Result<Images, Error> {
    let shape = dataset.shape();
    let mut images = Images::empty(shape.channels, shape.height, shape.width);
    let count = count.min(dataset.len());
    for place in 0..count {
        images.extend(&dataset.image(place * dataset.len() / count, false)?);
    }
    Ok(images.cropped(dataset.border()))
}

/// What the judge sees in images; `observe` hears how many it has seen after each batch.
///
/// # Errors
/// [`Error::Eval`] for images that it cannot read, or none at all.
pub fn seen_in(
    judge: &Judge,
    images: &Images,
    device: &Device,
    mut observe: impl FnMut(usize),
) -> Result<Seen, Error> {
    let mut all: Option<Seen> = None;
    let mut done = 0;
    for batch in images.batches(BATCH) {
        let seen = judge.see(batch.to_tensor(device))?;
        all = Some(match all {
            None => seen,
            Some(mut all) => {
                all.append(seen)?;
                all
            }
        });
        done += batch.len();
        observe(done);
    }
    let too_few = || EvalError::TooFew {
        what: "a measurement",
        given: 0,
        needed: 1,
    };
    Ok(all.ok_or_else(too_few)?)
}

/// [`seen_in`] `count` images of a data set, or what an earlier evaluation has kept of it in the folder `cache`.
///
/// The file is named by the pixels, the number of images and the judge's weights.
///
/// # Errors
/// Those of [`images_of`] and [`seen_in`], and [`Error::Eval`] when the file cannot be written.
pub fn seen_in_dataset(
    judge: &Judge,
    dataset: &ImageDataset,
    count: usize,
    cache: &Path,
    device: &Device,
    observe: impl FnMut(usize),
) -> Result<Seen, Error> {
    let count = count.min(dataset.len());
    let name = format!("{:.16}-{count}-{}", dataset.fingerprint(), judge.identity());
    let path = cache.join(format!("{name}.safetensors"));
    if let Some(seen) = Seen::load(&path).filter(|seen| seen.features().count() == count) {
        return Ok(seen);
    }
    let seen = seen_in(judge, &images_of(dataset, count)?, device, observe)?;
    seen.save(&path)?;
    Ok(seen)
}

/// Every pixel as the mean of the 3x3 around it, of those that are in the image: a landmark of how far a small flaw is from
/// real.
pub fn blurred(images: &Images) -> Images {
    let (height, width) = (images.height(), images.width());
    let mut blurred = Images::empty(images.channels(), height, width);
    for image in images.iter() {
        let mut values = Vec::with_capacity(image.len());
        for plane in image.chunks((height * width).max(1)) {
            for place in 0..plane.len() {
                let (row, column) = (place / width, place % width);
                let rows = row.saturating_sub(1)..(row + 2).min(height);
                let around = rows.flat_map(|row| {
                    let columns = column.saturating_sub(1)..(column + 2).min(width);
                    columns.filter_map(move |column| plane.get(row * width + column))
                });
                let (sum, count) = around.fold((0.0, 0.0), |(sum, count), &value| {
                    (sum + value, count + 1.0)
                });
                values.push(sum / count);
            }
        }
        blurred.extend(&values);
    }
    blurred
}

/// The pixels themselves as features.
///
/// # Errors
/// [`Error::Eval`] for pixels that are not finite.
pub fn pixels_of(images: &Images) -> Result<Features, Error> {
    Ok(Features::new(images.values().to_vec(), images.image_len())?)
}

#[cfg(test)]
mod tests {
    use kiln_data::ImageShape;

    use super::*;

    #[test]
    fn images_come_from_all_over_the_set() {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let dataset = ImageDataset::from_pixels("ten", shape, (0..10).collect(), None).unwrap();
        let bytes = |count| {
            let images = images_of(&dataset, count).unwrap();
            let bytes = images
                .values()
                .iter()
                .map(|value| ((value + 1.0) * 127.5).round() as u8);
            bytes.collect::<Vec<u8>>()
        };
        assert_eq!(bytes(3), [0, 3, 6]);
        assert_eq!(bytes(100), (0..10).collect::<Vec<u8>>());
        assert!(bytes(0).is_empty());
    }

    #[test]
    fn blurring_spreads_a_dot_and_keeps_flat_images() {
        let mut images = Images::empty(1, 3, 3);
        images.extend(&[0.5; 9]);
        images.extend(&[0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
        let blurred = blurred(&images);
        let rows: Vec<&[f32]> = blurred.iter().collect();
        assert_eq!(rows[0], [0.5; 9]);
        // Nine pixels around the centre, six around an edge's, four around a corner's.
        assert_eq!(rows[1], [2.25, 1.5, 2.25, 1.5, 1.0, 1.5, 2.25, 1.5, 2.25]);
    }
}
