//! Random numbers by address: the noise of image 7 at step 3 under seed 42 is always the same
//! noise.
//!
//! A counter-based generator (ChaCha8) is keyed by the purpose of the numbers, so they do not depend on the order of
//! drawing: not on the batch size, the number of devices or threads, or the other images. They are drawn on the host,
//! so they do not depend on the device either.
//!
//! This layout must never change, because every seed would then give other images:
//!
//! | part of ChaCha's input | holds |
//! | --- | --- |
//! | key, bytes 0..8 | the seed, little-endian |
//! | key, bytes 8..16 | the image index, little-endian |
//! | key, bytes 16..24 | what the numbers are for: 0 normal noise, 1 a uniform number, 2 a normal number |
//! | key, bytes 24..32 | zero |
//! | stream (64 bits) | the step |
//!
//! When sampling, the image index counts the images of the run and step 0 is the noise that an
//! image starts from; step k is what the k-th sampling step adds. When training, the image index is
//! the image's place in the whole batch (over all devices) and the step is the training step.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

const NORMAL: u64 = 0;
const UNIFORM: u64 = 1;
const NORMAL_NUMBER: u64 = 2;

fn generator(seed: u64, image_index: u64, step: u64, purpose: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[0..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&image_index.to_le_bytes());
    key[16..24].copy_from_slice(&purpose.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(step);
    generator
}

/// `len` independent standard normal numbers, the same for the same arguments everywhere.
///
/// A shorter request is a prefix of a longer one.
pub fn normal(seed: u64, image_index: u64, step: u64, len: usize) -> Vec<f32> {
    let generator = generator(seed, image_index, step, NORMAL);
    // Drawn as f64, whose algorithm is settled, then rounded: the crate may still change how it
    // draws f32.
    (StandardNormal.sample_iter(generator).take(len))
        .map(|value: f64| value as f32)
        .collect()
}

/// A number from [0, 1), uniformly distributed, independent of [`normal`]'s.
pub fn uniform(seed: u64, image_index: u64, step: u64) -> f64 {
    generator(seed, image_index, step, UNIFORM).random()
}

/// A standard normal number, independent of those of [`normal`] and [`uniform`].
pub fn normal_number(seed: u64, image_index: u64, step: u64) -> f64 {
    StandardNormal.sample(&mut generator(seed, image_index, step, NORMAL_NUMBER))
}

/// A timestep to train on, uniform over the whole numbers 0 to `num_train_timesteps` - 1.
///
/// It is a float because networks and schedules take floats.
pub fn timestep(seed: u64, image_index: u64, step: u64, num_train_timesteps: usize) -> f64 {
    (uniform(seed, image_index, step) * num_train_timesteps as f64).floor()
}

/// The noise of a batch of images that are being sampled.
///
/// ```
/// use burn::tensor::Device;
/// use kiln_diffusion::noise::ImageNoise;
///
/// let (images, shape) = (vec![0, 1, 2], [1, 4, 4]);
/// let noise = ImageNoise { seed: 0, images, shape, device: Device::flex() };
/// let start = noise.draw(0);
/// assert_eq!(start.dims(), [3, 1, 4, 4]);
/// ```
#[derive(Debug, Clone)]
pub struct ImageNoise {
    /// The seed of the run.
    pub seed: u64,
    /// The index of each image of the batch.
    pub images: Vec<u64>,
    /// An image's `[channels, height, width]`.
    pub shape: [usize; 3],
    /// The device of the tensors.
    pub device: Device,
}

impl ImageNoise {
    /// Standard normal noise `[batch, channels, height, width]`: for step 0 what the images start
    /// from, for step k what the k-th sampling step adds.
    pub fn draw(&self, step: usize) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        let len = channels * height * width;
        let values: Vec<f32> = self
            .images
            .iter()
            .flat_map(|&image| normal(self.seed, image, step as u64, len))
            .collect();
        let shape = [self.images.len(), channels, height, width];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// If this fails, every seed gives another image: find the cause, and do not change the numbers.
    #[test]
    fn the_numbers_never_change() {
        let drawn = (
            normal(0, 0, 0, 4),
            normal(42, 7, 3, 4),
            uniform(42, 7, 3),
            timestep(42, 7, 3, 1000),
        );
        let expected = (
            vec![1.3776972, 0.4053468, -1.1962689, -1.935047],
            vec![0.87017643, 1.0484203, -0.18322413, 1.2113358],
            0.25989714189263746,
            259.0,
        );
        assert_eq!(drawn, expected);
    }

    #[test]
    fn the_numbers_are_normal() {
        let values = normal(1, 2, 3, 100_000);
        let moment = |power: i32| {
            values
                .iter()
                .map(|&x| f64::from(x).powi(power))
                .sum::<f64>()
                / values.len() as f64
        };
        assert!(moment(1).abs() < 0.02, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "{}", moment(2));
        assert!(moment(3).abs() < 0.05, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "{}", moment(4));
    }

    #[test]
    fn every_part_of_the_address_counts() {
        let mut seen = HashSet::new();
        for address in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (u64::MAX, 0, 0),
            (0, u64::MAX, 0),
            (0, 0, u64::MAX),
        ] {
            let (seed, image, step) = address;
            let bits: Vec<u32> = normal(seed, image, step, 4)
                .into_iter()
                .map(f32::to_bits)
                .collect();
            assert!(seen.insert(bits), "{address:?}");
        }
    }

    #[test]
    fn a_shorter_request_is_a_prefix() {
        assert_eq!(normal(5, 6, 7, 100)[..33], normal(5, 6, 7, 33));
    }

    #[test]
    fn timesteps_cover_the_whole_range_evenly() {
        let mut counts = [0; 10];
        for image in 0..100 {
            for step in 0..100 {
                counts[timestep(3, image, step, 10) as usize] += 1;
            }
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn an_image_starts_from_the_same_noise_in_any_batch() {
        let batch = |images: Vec<u64>| {
            ImageNoise {
                seed: 9,
                images,
                shape: [2, 3, 3],
                device: Device::flex(),
            }
            .draw(4)
        };
        let alone = batch(vec![5]);
        let together = batch(vec![3, 4, 5, 6]).narrow(0, 2, 1);
        assert_eq!(alone.into_data(), together.into_data());
    }
}
