//! The latents of a data set, in memory: stage 2 learns from them instead of images.

use burn::tensor::{Device, Tensor, TensorData};

/// The latents of both splits of a data set.
#[derive(Debug)]
pub(crate) struct Latents {
    pub(crate) train: LatentSet,
    pub(crate) validation: LatentSet,
}

/// The latents of one split: the encoder's output until they are [`scaled`](LatentSet::scaled).
#[derive(Debug, PartialEq)]
pub(crate) struct LatentSet {
    /// `[images, variants, channels, height, width]`; variant 1 is the mirrored image.
    pub(super) shape: [usize; 5],
    pub(super) values: Vec<f32>,
}

impl LatentSet {
    /// `[channels, height, width]`.
    fn latent_shape(&self) -> [usize; 3] {
        let [_, _, channels, height, width] = self.shape;
        [channels, height, width]
    }

    /// Standard deviation over everything: its inverse is the `scaling_factor` (Rombach et al. 2022, appendix G).
    pub(crate) fn standard_deviation(&self) -> f64 {
        let count = self.values.len() as f64;
        let mean = self
            .values
            .iter()
            .map(|&value| f64::from(value))
            .sum::<f64>()
            / count;
        let variance = self
            .values
            .iter()
            .map(|&value| (f64::from(value) - mean).powi(2))
            .sum::<f64>()
            / count;
        variance.sqrt()
    }

    /// All latents, minus `shift`, multiplied by `factor`.
    pub(crate) fn scaled(mut self, shift: f64, factor: f64) -> Self {
        for value in &mut self.values {
            *value = (*value - shift as f32) * factor as f32;
        }
        self
    }

    /// Latents `[batch, channels, height, width]`.
    pub(crate) fn batch(&self, images: &[(u32, bool)], device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.latent_shape();
        let (length, variants) = (channels * height * width, self.shape[1]);
        let mut values = Vec::with_capacity(images.len() * length);
        for &(index, flipped) in images {
            let variant = usize::from(flipped).min(variants - 1);
            let first = (index as usize * variants + variant) * length;
            values.extend_from_slice(&self.values[first..first + length]);
        }
        Tensor::from_data(
            TensorData::new(values, [images.len(), channels, height, width]),
            device,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_image_has_latents_of_its_own() {
        let set = LatentSet {
            shape: [3, 2, 1, 2, 2],
            values: (0..24u8).map(f32::from).collect(),
        };
        let batch = set
            .scaled(0.0, 0.5)
            .batch(&[(2, true), (0, false)], &Device::flex());
        let values: Vec<f32> = batch.into_data().iter::<f32>().collect();
        assert_eq!(values, [10.0, 10.5, 11.0, 11.5, 0.0, 0.5, 1.0, 1.5]);
    }

    #[test]
    fn the_deviation_is_that_of_all_values() {
        let set = LatentSet {
            shape: [2, 1, 1, 1, 2],
            values: vec![1.0, 3.0, 5.0, 7.0],
        };
        assert!((set.standard_deviation() - 5f64.sqrt()).abs() < 1e-12);
    }
}
