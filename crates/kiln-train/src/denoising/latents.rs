//! The latents of a data set: stage 2 learns from them instead of images.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::noise;

use super::latent_shards::LatentShard;
use super::spread::Spread;
use crate::error::TrainError;

/// The latents of both splits of a data set.
#[derive(Debug)]
pub(crate) struct Latents {
    pub(crate) train: LatentSet,
    pub(crate) validation: LatentSet,
}

/// The latents of one split: the encoder's output until they are [`scaled`](LatentSet::scaled).
#[derive(Debug)]
pub(crate) struct LatentSet {
    /// `[images, variants, channels, height, width]`; variant 1 is the mirrored image. The second half are the standard
    /// deviations of the first, if latents are drawn.
    pub(super) shape: [usize; 5],
    pub(super) has_deviations: bool,
    pub(super) values: Values,
    /// Of all values together, before they are scaled.
    pub(super) spread: Spread,
    /// What is subtracted from each value, and the factor after that.
    pub(super) scale: (f32, f32),
}

/// The images of a batch, and what the latents are drawn by.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The index of each image, and whether it is mirrored.
    pub(crate) images: Vec<(u32, bool)>,
    /// The address of the first image's noise: see [`noise`]. The next ones have the next slots.
    pub(crate) seed: u64,
    pub(crate) first_slot: u64,
    pub(crate) step: u64,
}

/// Keeps the noise of latents apart from that which stage 2 adds to them.
const POSTERIOR_NOISE: u64 = 0x706f_7374_6572_696f;

/// Where the values of latents are.
#[derive(Debug)]
pub(super) enum Values {
    /// In memory, one after the other.
    Kept(Vec<f32>),
    /// In files that hold so many images each, but for the last.
    OnDisk(Vec<LatentShard>, usize),
}

impl LatentSet {
    /// Standard deviation over everything: its inverse is the `scaling_factor` (Rombach et al. 2022, appendix G).
    pub(crate) fn standard_deviation(&self) -> f64 {
        (self.spread.squares / self.spread.count).sqrt()
    }

    /// All latents, minus `shift`, multiplied by `factor`.
    pub(crate) fn scaled(self, shift: f64, factor: f64) -> Self {
        Self {
            scale: (shift as f32, factor as f32),
            ..self
        }
    }

    /// Latents `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// [`TrainError::File`] if they are on disk and cannot be read.
    pub(crate) fn batch(
        &self,
        request: &Request,
        device: &Device,
    ) -> Result<Tensor<4>, TrainError> {
        let [_, variants, channels, height, width] = self.shape;
        let (images, length) = (&request.images, channels * height * width);
        let flips = variants / (1 + usize::from(self.has_deviations));
        let mut values = Vec::with_capacity(images.len() * length);
        let mut deviations = Vec::new();
        for (slot, &(index, flipped)) in (request.first_slot..).zip(images) {
            let (index, variant) = (index as usize, usize::from(flipped).min(flips - 1));
            self.read(index, variant, &mut values)?;
            if self.has_deviations {
                deviations.clear();
                self.read(index, flips + variant, &mut deviations)?;
                let seed = request.seed ^ POSTERIOR_NOISE;
                let drawn = noise::normal(seed, slot, request.step, length);
                let first = values.len() - length;
                for ((value, deviation), noise) in
                    values[first..].iter_mut().zip(&deviations).zip(drawn)
                {
                    *value += deviation * noise;
                }
            }
        }
        let (shift, factor) = self.scale;
        for value in &mut values {
            *value = (*value - shift) * factor;
        }
        let data = TensorData::new(values, [images.len(), channels, height, width]);
        Ok(Tensor::from_data(data, device))
    }

    /// Adds a variant of an image to `values`.
    fn read(&self, index: usize, variant: usize, values: &mut Vec<f32>) -> Result<(), TrainError> {
        let [_, variants, channels, height, width] = self.shape;
        let length = channels * height * width;
        match &self.values {
            Values::Kept(kept) => {
                let first = (index * variants + variant) * length;
                values.extend_from_slice(&kept[first..first + length]);
                Ok(())
            }
            Values::OnDisk(shards, images) => {
                let (shard, image) = (&shards[index / images], index % images);
                shard.read((image * variants + variant) * length, length, values)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(shape: [usize; 5], values: Vec<f32>) -> LatentSet {
        LatentSet {
            shape,
            spread: Spread::of(&values),
            values: Values::Kept(values),
            has_deviations: false,
            scale: (0.0, 1.0),
        }
    }

    fn request(images: &[(u32, bool)], first_slot: u64) -> Request {
        Request {
            images: images.to_vec(),
            seed: 7,
            first_slot,
            step: 3,
        }
    }

    fn values(set: &LatentSet, images: &[(u32, bool)], first_slot: u64) -> Vec<f32> {
        let request = request(images, first_slot);
        let batch = set.batch(&request, &Device::flex()).unwrap();
        batch.into_data().iter::<f32>().collect()
    }

    #[test]
    fn drawn_latents_have_their_mean_and_deviation_and_belong_to_their_slot() {
        // Two images: the mean and its mirror image, and the deviations of both.
        let all = [[10.0, 20.0, 0.0, 2.0], [30.0, 40.0, 1.0, 0.5]].concat();
        let drawn = LatentSet {
            has_deviations: true,
            ..set([2, 4, 1, 1, 1], all)
        };
        let images: Vec<(u32, bool)> = (0..4000).map(|_| (1, true)).collect();
        let numbers = values(&drawn, &images, 5);
        let spread = Spread::of(&numbers);
        let deviation = (spread.squares / spread.count).sqrt();
        assert!((spread.mean - 40.0).abs() < 0.05 && (deviation - 0.5).abs() < 0.02);
        assert_eq!(
            values(&drawn, &[(0, false); 3], 0),
            [10.0; 3],
            "without deviation"
        );
        // However a step is divided.
        assert_eq!(values(&drawn, &images[..3], 7), numbers[2..5]);
    }

    #[test]
    fn a_mirrored_image_has_latents_of_its_own() {
        let set = set([3, 2, 1, 2, 2], (0..24u8).map(f32::from).collect());
        let set = set.scaled(1.0, 0.5);
        assert_eq!(
            values(&set, &[(2, true), (0, false)], 0),
            [9.5, 10.0, 10.5, 11.0, -0.5, 0.0, 0.5, 1.0]
        );
    }

    #[test]
    fn the_deviation_is_that_of_all_values() {
        let set = set([2, 1, 1, 1, 2], vec![1.0, 3.0, 5.0, 7.0]);
        assert!((set.standard_deviation() - 5f64.sqrt()).abs() < 1e-12);
    }
}
