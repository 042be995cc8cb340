//! Changes that an image and its latents undergo alike: EQ-VAE (Kouzelis et al. 2025).

use burn::tensor::{Tensor, TensorData};
use kiln_diffusion::noise::uniform;

use crate::experiment::EquivarianceConfig;

/// The addresses of a step's random numbers, which no image of the step has.
const WHETHER: u64 = u64::MAX;
const SCALE: u64 = u64::MAX - 1;
const TURNS: u64 = u64::MAX - 2;

/// A scaling and a rotation of all images of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// Height and width of the latents afterwards, before they are turned.
    latents: [usize; 2],
    /// Pixels along a latent's side.
    factor: usize,
    /// Quarter turns.
    turns: usize,
}

impl Change {
    /// The change at a step, if it has one, of latents of this height and width.
    pub(super) fn draw(
        config: &EquivarianceConfig,
        latents: [usize; 2],
        factor: usize,
        seed: u64,
        step: u64,
    ) -> Option<Self> {
        let number = |address| uniform(seed, address, step);
        if number(WHETHER) >= config.probability {
            return None;
        }
        let least = config.smallest_scale;
        let scale = least + (1.0 - least) * number(SCALE);
        let turns = match config.rotation {
            true => (4.0 * number(TURNS)) as usize,
            false => 0,
        };
        Some(Self {
            latents: latents.map(|side| EquivarianceConfig::scaled(side, scale)),
            factor,
            turns,
        })
    }

    /// The changed latents of `[batch, channels, height, width]`.
    pub(super) fn of_latents(&self, latents: Tensor<4>) -> Tensor<4> {
        turned(resized(latents, self.latents), self.turns)
    }

    /// The changed images of `[batch, channels, height, width]`.
    pub(super) fn of_images(&self, images: Tensor<4>) -> Tensor<4> {
        let size = self.latents.map(|side| side * self.factor);
        turned(resized(images, size), self.turns)
    }
}

/// Turned to the left by this many quarters.
fn turned(images: Tensor<4>, quarters: usize) -> Tensor<4> {
    (0..quarters).fold(images, |images, _| images.swap_dims(2, 3).flip([2]))
}

/// Bicubic with antialiasing. As a product with two matrices it has gradients on every device.
fn resized(images: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, _, old_height, old_width] = images.dims();
    if [height, width] == [old_height, old_width] {
        return images;
    }
    along_rows(along_rows(images, width).swap_dims(2, 3), height).swap_dims(2, 3)
}

/// Each row of pixels resized to this many.
fn along_rows(images: Tensor<4>, new: usize) -> Tensor<4> {
    let [batch, channels, rows, old] = images.dims();
    let device = images.device().without_autodiff();
    let weights = Tensor::<2>::from_data(TensorData::new(weights(old, new), [old, new]), &device);
    let resized = images
        .reshape([batch * channels * rows, old])
        .matmul(weights);
    resized.reshape([batch, channels, rows, new])
}

/// The share of each of `old` pixels in each of `new` ones, `[old, new]`: Catmull-Rom, widened by the scale when
/// shrinking, like Pillow's `BICUBIC`.
fn weights(old: usize, new: usize) -> Vec<f32> {
    let step = old as f64 / new as f64;
    let width = step.max(1.0);
    let mut shares = vec![0.0; old * new];
    for pixel in 0..new {
        let centre = (pixel as f64 + 0.5) * step;
        let of_old = |place: usize| cubic((place as f64 + 0.5 - centre) / width);
        let sum: f64 = (0..old).map(of_old).sum();
        for place in 0..old {
            shares[place * new + pixel] = (of_old(place) / sum) as f32;
        }
    }
    shares
}

/// Keys' cubic kernel with a = -1/2 (Keys 1981).
fn cubic(distance: f64) -> f64 {
    let x = distance.abs();
    match x {
        _ if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        _ if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int};

    use super::*;

    fn numbers(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// `[1, 1, rows, columns]` from 0 upwards.
    fn counting(rows: usize, columns: usize) -> Tensor<4> {
        let numbers = Tensor::<1, Int>::arange(0..(rows * columns) as i64, &Device::flex());
        numbers.float().reshape([1, 1, rows, columns])
    }

    #[test]
    fn a_quarter_turn_goes_to_the_left() {
        let image = counting(2, 3);
        let turned_once = turned(image.clone(), 1);
        assert_eq!(turned_once.dims(), [1, 1, 3, 2]);
        assert_eq!(numbers(turned_once), [2.0, 5.0, 1.0, 4.0, 0.0, 3.0]);
        assert_eq!(numbers(turned(image.clone(), 4)), numbers(image));
    }

    /// `PIL.Image.resize` of the same row by `BICUBIC`, in mode `F` (Pillow 13.0).
    #[test]
    fn rows_are_resized_as_pillow_does() {
        for (new, expected) in [
            (2, vec![1.680_063, 5.319_937]),
            (4, vec![0.543_933, 2.459_459, 4.540_541, 6.456_067]),
        ] {
            let resized = numbers(along_rows(counting(1, 8), new));
            for (value, expected) in resized.iter().zip(&expected) {
                assert!((value - expected).abs() < 1e-4, "{resized:?}");
            }
        }
    }

    #[test]
    fn images_and_latents_change_alike() {
        let config = EquivarianceConfig::default();
        let draw = |step| Change::draw(&config, [16, 8], 4, 7, step);
        let drawn: Vec<_> = (0..200).filter_map(draw).collect();
        assert!(
            (70..130).contains(&drawn.len()),
            "about half: {}",
            drawn.len()
        );
        assert_eq!(draw(3), draw(3));
        assert!((0..4).all(|turns| drawn.iter().any(|change| change.turns == turns)));
        for change in drawn {
            let latents = change.of_latents(counting(16, 8)).dims();
            let images = change.of_images(counting(64, 32)).dims();
            assert_eq!([images[2], images[3]], [4 * latents[2], 4 * latents[3]]);
            assert!(latents[2] * latents[3] >= 4 * 2);
        }
    }
}
