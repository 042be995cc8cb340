//! The mask of inpainting: the choice of latents, and the restoration of the original.

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::Error;
use crate::pictures::Images;

/// The mask's middle gray, in [-1, 1]: a latent with a lighter pixel is filled in.
const MIDDLE_GRAY: f32 = 0.0;

/// Checks that `mask` is one gray image of the size of `original`.
pub(super) fn check(mask: &Images, original: &Images) -> Result<(), Error> {
    let shape = |images: &Images| [images.len(), images.height(), images.width()];
    if shape(mask) == shape(original) && mask.channels() == 1 {
        return Ok(());
    }
    Err(Error::MaskShape {
        width: mask.width(),
        height: mask.height(),
        image_width: original.width(),
        image_height: original.height(),
    })
}

/// The latents to fill in, `[1, 1, height, width]`: the ones with a pixel of the mask that is lighter than the middle
/// gray. `mask` includes the padding of the latents' images.
pub(super) fn unknown_latents(
    mask: &Images,
    height: usize,
    width: usize,
    device: &Device,
) -> Tensor<4, Bool> {
    let (of_height, of_width) = (mask.height() / height.max(1), mask.width() / width.max(1));
    let mut unknown = vec![false; height * width];
    for (index, &value) in mask.values().iter().enumerate() {
        let (row, column) = (index / mask.width(), index % mask.width());
        let latent = row / of_height.max(1) * width + column / of_width.max(1);
        if let Some(unknown) = unknown.get_mut(latent) {
            *unknown |= value > MIDDLE_GRAY;
        }
    }
    Tensor::from_data(TensorData::new(unknown, [1, 1, height, width]), device)
}

/// Combines images: each of the `drawn` ones where the mask is white, the original where it is black, and a mixture
/// where it is gray.
pub(super) fn paste(original: &Images, mask: &Images, drawn: &Images) -> Images {
    let mut pasted = Images::empty(drawn.channels(), drawn.height(), drawn.width());
    for image in drawn.iter() {
        let places = original.values().iter().zip(mask.values().iter().cycle());
        let values: Vec<f32> = (image.iter().zip(places))
            .map(|(&drawn, (&original, &mask))| {
                let share = (mask + 1.0) / 2.0;
                if share > 0.0 {
                    original + share * (drawn.clamp(-1.0, 1.0) - original)
                } else {
                    original
                }
            })
            .collect();
        pasted.extend(&values);
    }
    pasted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(channels: usize, height: usize, width: usize, values: &[f32]) -> Images {
        let mut images = Images::empty(channels, height, width);
        images.extend(values);
        images
    }

    #[test]
    fn one_light_pixel_makes_a_latent_unknown() {
        let mut values = [-1.0; 16];
        // The lower left of the four blocks, and a pixel that is too dark in the upper right one.
        values[9] = 0.1;
        values[3] = -0.1;
        let unknown = unknown_latents(&images(1, 4, 4, &values), 2, 2, &Device::flex());
        assert_eq!(unknown.dims(), [1, 1, 2, 2]);
        let unknown: Vec<bool> = unknown.into_data().iter::<bool>().collect();
        assert_eq!(unknown, [false, false, true, false]);
    }

    #[test]
    fn black_keeps_the_original_and_gray_mixes() {
        let original = images(2, 1, 3, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let mask = images(1, 1, 3, &[-1.0, 0.0, 1.0]);
        let drawn = images(2, 1, 3, &[f32::NAN, 1.0, 1.0, -1.0, -1.0, -9.0]);
        let pasted = paste(&original, &mask, &drawn);
        let expected = [0.1, 0.6, 1.0, 0.4, -0.25, -1.0];
        for (pasted, expected) in pasted.values().iter().zip(expected) {
            assert!((pasted - expected).abs() < 1e-6, "{pasted} {expected}");
        }
        assert_eq!((pasted.values()[0], pasted.values()[3]), (0.1, 0.4));
    }

    #[test]
    fn a_mask_of_another_shape_is_refused() {
        let original = images(3, 2, 2, &[0.0; 12]);
        assert!(check(&images(1, 2, 2, &[0.0; 4]), &original).is_ok());
        for mask in [
            images(1, 2, 1, &[0.0; 2]),
            images(3, 2, 2, &[0.0; 12]),
            images(1, 2, 2, &[]),
        ] {
            assert!(check(&mask, &original).is_err());
        }
    }
}
