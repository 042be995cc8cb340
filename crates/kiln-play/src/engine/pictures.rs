//! Images in [-1, 1] to the page's pixels, and back.

use burn::tensor::Tensor;
use kiln_data::ImageShape;
use kiln_pipeline::pictures::Images;

use super::Refusal;
use crate::protocol::Sheet;

/// Red, green, blue, opacity.
const PIXEL: usize = 4;
/// A page sends no more pixels than this at once.
const MOST_PIXELS: usize = 1 << 24;
/// Latents are shown from -this to this: their standard deviation is about 1.
const SHOWN_LATENTS: f32 = 3.0;

/// The pictures behind a message.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    /// Adds images.
    pub(super) fn add(&mut self, images: &Images) -> Sheet {
        let sheet = Sheet {
            at: self.0.len() as u32,
            count: images.len() as u32,
            width: images.width() as u32,
            height: images.height() as u32,
        };
        let plane = images.height() * images.width();
        for image in images.iter() {
            for pixel in 0..plane {
                let value = |channel: usize| to_byte(image[channel * plane + pixel]);
                let [red, green, blue] = match images.channels() {
                    3 => [value(0), value(1), value(2)],
                    _ => [value(0); 3],
                };
                self.0.extend([red, green, blue, 255]);
            }
        }
        sheet
    }

    /// Adds latents `[count, channels, height, width]`, the channels of each side by side.
    pub(super) fn add_latents(&mut self, latents: Tensor<4>) -> Result<Sheet, Refusal> {
        let [count, channels, height, width] = latents.dims();
        let side_by_side =
            latents
                .permute([0, 2, 1, 3])
                .reshape([count, 1, height, channels * width]);
        Ok(self.add(&Images::from_tensor(side_by_side / SHOWN_LATENTS)?))
    }
}

/// [-1, 1] to [0, 255], as in kiln's PNGs.
fn to_byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

/// The images of `shape` in a question's bytes. A gray model takes the mean of the colours.
pub(super) fn read(bytes: &[u8], given: &Sheet, shape: ImageShape) -> Result<Images, Refusal> {
    let refused = |sentence: String| Err(Refusal::Question(sentence));
    let (width, height, count) = (
        given.width as usize,
        given.height as usize,
        given.count as usize,
    );
    if (width, height) != (shape.width, shape.height) {
        return refused(format!(
            "the picture has {width}x{height} pixels, and the model takes {}x{}",
            shape.width, shape.height
        ));
    }
    let pixels = width.saturating_mul(height).saturating_mul(count);
    if pixels == 0 || pixels > MOST_PIXELS {
        return refused(format!(
            "{count} pictures of {width}x{height} are none, or too many"
        ));
    }
    let begin = given.at as usize;
    let Some(bytes) = bytes.get(begin..begin + pixels * PIXEL) else {
        return refused("the question speaks of pictures that are not behind it".to_owned());
    };
    let plane = width * height;
    let mut images = Images::empty(shape.channels, height, width);
    for image in bytes.chunks_exact(plane * PIXEL) {
        let colour = |channel: usize| {
            let pixels = image.iter().skip(channel).step_by(PIXEL);
            pixels.map(|&byte| f32::from(byte) / 127.5 - 1.0)
        };
        let values: Vec<f32> = match shape.channels {
            3 => (0..3).flat_map(colour).collect(),
            _ => {
                let (red, green, blue) = (colour(0), colour(1), colour(2));
                (red.zip(green).zip(blue))
                    .map(|((red, green), blue)| (red + green + blue) / 3.0)
                    .collect()
            }
        };
        images.extend(&values);
    }
    Ok(images)
}

/// The peak signal-to-noise ratio of two lists of images, in dB, bounded where they are equal.
pub(super) fn psnr(images: &Images, originals: &Images) -> f64 {
    /// The range of pixels, [-1, 1], squared.
    const PEAK: f64 = 4.0;
    let pairs = images.iter().zip(originals.iter());
    let differences = pairs.flat_map(|(image, original)| image.iter().zip(original));
    let squares = differences.map(|(value, original)| f64::from(value - original).powi(2));
    let (sum, count) = squares.fold((0.0, 0.0), |(sum, count), square| {
        (sum + square, count + 1.0)
    });
    10.0 * (PEAK / (sum / f64::max(count, 1.0)).max(1e-12)).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(channels: usize) -> ImageShape {
        ImageShape {
            channels,
            height: 2,
            width: 3,
        }
    }

    #[test]
    fn pictures_survive() {
        for channels in [1, 3] {
            let mut images = Images::empty(channels, 2, 3);
            let values: Vec<f32> = (0..2 * 6 * channels)
                .map(|value| (value * 7 % 256) as f32 / 127.5 - 1.0)
                .collect();
            images.extend(&values);
            let mut bytes = Bytes(vec![9, 9, 9, 9]);
            let sheet = bytes.add(&images);
            assert_eq!(
                (sheet.at, sheet.count, sheet.width, sheet.height),
                (4, 2, 3, 2)
            );
            assert_eq!(bytes.0.len(), 4 + 2 * 6 * PIXEL);
            let read = read(&bytes.0, &sheet, shape(channels)).unwrap();
            for (read, value) in read.values().iter().zip(values) {
                assert!((read - value).abs() < 1e-5, "{read} {value}");
            }
        }
    }

    #[test]
    fn pictures_that_are_not_there_are_refused() {
        let sheet = Sheet {
            at: 0,
            count: 1,
            width: 3,
            height: 2,
        };
        let bytes = [0; 6 * PIXEL];
        assert!(read(&bytes, &sheet, shape(1)).is_ok());
        for wrong in [
            Sheet { at: 1, ..sheet },
            Sheet {
                at: u32::MAX,
                ..sheet
            },
            Sheet { count: 0, ..sheet },
            Sheet { width: 0, ..sheet },
            Sheet { count: 2, ..sheet },
            Sheet {
                count: u32::MAX,
                ..sheet
            },
            Sheet { width: 2, ..sheet },
        ] {
            assert!(read(&bytes, &wrong, shape(1)).is_err(), "{wrong:?}");
        }
    }
}
