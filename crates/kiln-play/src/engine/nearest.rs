//! The training images that are most like a picture.

use kiln_data::{ImageDataset, ImageShape};
use kiln_pipeline::Error;
use kiln_pipeline::pictures::Images;

use super::pictures::{self, Bytes};
use super::{Refusal, Tell};
use crate::protocol::{Answer, Sheet};

/// More images than a page shows in a row.
const MOST: u32 = 64;
/// The pixels' range, [-1, 1].
const RANGE: f64 = 2.0;

/// Tells the `count` images of `training` that are nearest to the picture by the squares of their pixels' differences.
pub(super) fn nearest(
    training: &ImageDataset,
    bytes: &[u8],
    (given, shape): (&Sheet, ImageShape),
    count: u32,
    tell: &mut Tell<'_>,
) -> Result<(), Refusal> {
    if !(1..=MOST).contains(&count) {
        return Err(Refusal::Question(format!(
            "{count} images: there must be 1 to {MOST}"
        )));
    }
    let picture = pictures::read(bytes, given, shape)?.first(1);
    let found = nearest_of(training, &picture, count as usize, &|| tell.check())?;
    let mut images = Images::empty(shape.channels, shape.height, shape.width);
    let mut distances = Vec::new();
    for (squared, image) in found {
        images.extend(&image);
        distances.push((squared / image.len() as f64).sqrt() / RANGE);
    }
    let mut bytes = Bytes::default();
    let answer = Answer::Nearest {
        images: bytes.add(&images),
        distances,
        of: training.len() as u32,
        data: training.name().to_owned(),
    };
    tell.tell(answer, bytes)
}

/// Squared distances, and the images, the nearest one first. `check` is asked now and then whether to go on.
fn nearest_of(
    training: &ImageDataset,
    picture: &Images,
    count: usize,
    check: &dyn Fn() -> Result<(), Error>,
) -> Result<Vec<(f64, Vec<f32>)>, Refusal> {
    let (shape, border) = (training.shape(), training.border());
    let inner = ImageShape {
        height: shape.height - 2 * border,
        width: shape.width - 2 * border,
        ..shape
    };
    let of_picture = ImageShape {
        channels: picture.channels(),
        height: picture.height(),
        width: picture.width(),
    };
    if inner != of_picture {
        return Err(Refusal::Question(format!(
            "the images of {} have {}x{} pixels and {} channel(s), and the model's {}x{} and {}: is it another data set?",
            training.name(),
            inner.width,
            inner.height,
            inner.channels,
            of_picture.width,
            of_picture.height,
            of_picture.channels
        )));
    }
    let mut found: Vec<(f64, Vec<f32>)> = Vec::new();
    for index in 0..training.len() {
        if index % 1000 == 0 {
            check()?;
        }
        let image =
            (training.image(index, false)).map_err(|error| Refusal::Question(error.to_string()))?;
        let image = match border {
            0 => image,
            border => {
                let mut whole = Images::empty(shape.channels, shape.height, shape.width);
                whole.extend(&image);
                whole.cropped(border).values().to_vec()
            }
        };
        let differences = image.iter().zip(picture.values());
        let squared: f32 = differences.map(|(one, other)| (one - other).powi(2)).sum();
        let squared = f64::from(squared);
        let place = found.partition_point(|(nearer, _)| *nearer <= squared);
        if place < count {
            found.truncate(count - 1);
            found.insert(place, (squared, image));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 2,
        width: 2,
    };

    /// Ten images, each of one gray: 0, 20, 40 ..
    fn grays() -> ImageDataset {
        let pixels = (0..10).flat_map(|image| [image * 20; 4]).collect();
        ImageDataset::from_pixels("grays", SHAPE, pixels, None).unwrap()
    }

    fn gray(byte: u8) -> Images {
        let mut images = Images::empty(1, 2, 2);
        images.extend(&[f32::from(byte) / 127.5 - 1.0; 4]);
        images
    }

    #[test]
    fn the_nearest_images_come_first() {
        let found = nearest_of(&grays(), &gray(65), 3, &|| Ok(())).unwrap();
        let bytes: Vec<u8> = found
            .iter()
            .map(|(_, image)| ((image[0] + 1.0) * 127.5).round() as u8)
            .collect();
        assert_eq!(bytes, [60, 80, 40]);
        let (squared, _) = found[0];
        assert!((squared - 4.0 * (5.0f64 / 127.5).powi(2)).abs() < 1e-6);
        assert_eq!(
            nearest_of(&grays(), &gray(65), 64, &|| Ok(()))
                .unwrap()
                .len(),
            10
        );
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let mut picture = Images::empty(1, 1, 2);
        picture.extend(&[0.0; 2]);
        let refusal = nearest_of(&grays(), &picture, 3, &|| Ok(()))
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("2x2") && refusal.contains("2x1"),
            "{refusal}"
        );
    }
}
