//! The latents of a data set: stage 2 learns from them instead of images.

use burn::tensor::{Device, Tensor, TensorData};

use super::latent_shards::LatentShard;
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

/// The mean and the spread of numbers, which can be found part by part (Chan, Golub and LeVeque 1983, equation 2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spread {
    pub(super) count: f64,
    pub(super) mean: f64,
    /// The sum of the squares of the distances from the mean.
    pub(super) squares: f64,
}

impl Spread {
    pub(super) fn of(values: &[f32]) -> Self {
        let count = values.len() as f64;
        let values = || values.iter().map(|&value| f64::from(value));
        let mean = values().sum::<f64>() / count.max(1.0);
        Self {
            count,
            mean,
            squares: values().map(|value| (value - mean).powi(2)).sum(),
        }
    }

    /// That of these numbers and others together.
    pub(super) fn and(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares
                + other.squares
                + apart.powi(2) * self.count * other.count / count,
        }
    }
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
    fn the_deviation_is_that_of_all_values_however_they_are_divided() {
        let values = [1.0, 3.0, 5.0, 7.0];
        let whole = set([2, 1, 1, 1, 2], values.to_vec());
        assert!((whole.standard_deviation() - 5f64.sqrt()).abs() < 1e-12);
        for cut in 0..=4 {
            let parts = [&values[..cut], &values[cut..]].map(Spread::of);
            let both = Spread::default().and(parts[0]).and(parts[1]);
            assert_eq!(both.count, 4.0);
            assert!((both.mean - 4.0).abs() < 1e-12 && (both.squares - 20.0).abs() < 1e-12);
        }
    }
}
