//! The latents of a data set: stage 2 learns from them instead of images.

use burn::tensor::{Device, Tensor, TensorData};

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
    /// `[images, variants, channels, height, width]`; variant 1 is the mirrored image.
    pub(super) shape: [usize; 5],
    pub(super) values: Values,
    /// Of all values together, before they are scaled.
    pub(super) spread: Spread,
    /// What is subtracted from each value, and the factor after that.
    pub(super) scale: (f32, f32),
}

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
        images: &[(u32, bool)],
        device: &Device,
    ) -> Result<Tensor<4>, TrainError> {
        let [_, variants, channels, height, width] = self.shape;
        let length = channels * height * width;
        let mut values = Vec::with_capacity(images.len() * length);
        for &(index, flipped) in images {
            let (index, variant) = (index as usize, usize::from(flipped).min(variants - 1));
            match &self.values {
                Values::Kept(kept) => {
                    let first = (index * variants + variant) * length;
                    values.extend_from_slice(&kept[first..first + length]);
                }
                Values::OnDisk(shards, images) => {
                    let (shard, image) = (&shards[index / images], index % images);
                    shard.read((image * variants + variant) * length, length, &mut values)?;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(shape: [usize; 5], values: Vec<f32>) -> LatentSet {
        LatentSet {
            shape,
            spread: Spread::of(&values),
            values: Values::Kept(values),
            scale: (0.0, 1.0),
        }
    }

    #[test]
    fn a_mirrored_image_has_latents_of_its_own() {
        let set = set([3, 2, 1, 2, 2], (0..24u8).map(f32::from).collect());
        let set = set.scaled(1.0, 0.5);
        let batch = set
            .batch(&[(2, true), (0, false)], &Device::flex())
            .unwrap();
        let values: Vec<f32> = batch.into_data().iter::<f32>().collect();
        assert_eq!(values, [9.5, 10.0, 10.5, 11.0, -0.5, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn the_deviation_is_that_of_all_values() {
        let set = set([2, 1, 1, 1, 2], vec![1.0, 3.0, 5.0, 7.0]);
        assert!((set.standard_deviation() - 5f64.sqrt()).abs() < 1e-12);
    }
}
