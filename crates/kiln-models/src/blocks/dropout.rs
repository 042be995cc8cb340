//! Dropout (Srivastava et al. 2014) whose masks can be repeated.
//!
//! Burn draws masks from a generator that all threads of the process share. On processors each image's mask has its own
//! generator here, keyed by the image's place in the step and by the layer, so that a training ends with the same
//! weights whenever it stops, and whatever the devices and micro-batches.

use std::cell::Cell;

use burn::nn::Dropout;
use burn::tensor::{Tensor, TensorData};
use kiln_kernels::is_cpu;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::BatchPosition;

thread_local! {
    static NEXT: Cell<Option<Layer>> = const { Cell::new(None) };
}

/// A layer with dropout: the how many-th of a shard's forward passes.
#[derive(Clone, Copy)]
struct Layer {
    shard: BatchPosition,
    number: u64,
}

/// Runs `work`, the forward passes of the shard at `position`, in which dropout on a processor depends on that position
/// alone. It applies to this thread.
///
/// Outside, and on other devices, dropout is Burn's, and differs from run to run.
pub fn with_dropout_at<R>(position: BatchPosition, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<Layer>);
    impl Drop for Restore {
        fn drop(&mut self) {
            NEXT.set(self.0);
        }
    }
    let first = Layer {
        shard: position,
        number: 0,
    };
    let _restore = Restore(NEXT.replace(Some(first)));
    work()
}

/// Sets elements of `x`, `[batch, height, width, channels]`, to zero with the layer's probability while gradients are
/// tracked, and divides the others by the probability that they are kept.
pub(super) fn dropout(layer: &Dropout, x: Tensor<4>) -> Tensor<4> {
    let device = x.device();
    let is_active = layer.prob > 0.0 && layer.training.is_enabled() && device.is_autodiff();
    match NEXT.get() {
        Some(here) if is_active && is_cpu(&device) => {
            NEXT.set(Some(Layer {
                number: here.number + 1,
                ..here
            }));
            let factors = TensorData::new(here.factors(layer.prob, x.dims()), x.dims());
            x * Tensor::from_data(factors, &device)
        }
        _ => layer.forward(x),
    }
}

impl Layer {
    /// 0 or 1 / (1 - `probability`), for elements of this shape.
    fn factors(self, probability: f64, shape: [usize; 4]) -> Vec<f32> {
        let kept = (1.0 / (1.0 - probability)) as f32;
        // A share of all u32.
        let limit = (probability * 2.0_f64.powi(32)) as u32;
        let [batch, height, width, channels] = shape;
        let length = height * width * channels;
        let mut factors = vec![0.0; batch * length];
        let images = factors.par_chunks_mut(length.max(1)).enumerate();
        images.for_each(|(image, factors)| {
            let mut numbers = self.generator(image);
            for factor in factors {
                *factor = if numbers.next_u32() < limit {
                    0.0
                } else {
                    kept
                };
            }
        });
        factors
    }

    /// The generator for the shard's `image`-th image.
    fn generator(self, image: usize) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[0..8].copy_from_slice(&self.shard.seed.to_le_bytes());
        key[8..16].copy_from_slice(&((self.shard.first_image + image) as u64).to_le_bytes());
        key[16..24].copy_from_slice(&self.number.to_le_bytes());
        key[24..32].copy_from_slice(b"dropouts");
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(self.shard.step);
        generator
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::DropoutConfig;
    use burn::tensor::Device;

    use super::*;

    fn position(first_image: usize, step: u64) -> BatchPosition {
        BatchPosition {
            seed: 7,
            step,
            first_image,
            total_images: 6,
        }
    }

    /// What two layers make of ones.
    fn dropped(shard: BatchPosition, images: usize, device: &Device) -> [Vec<f32>; 2] {
        let layer = DropoutConfig::new(0.25).init();
        with_dropout_at(shard, || {
            [(); 2].map(|()| {
                let x = Tensor::<4>::ones([images, 16, 16, 8], device);
                dropout(&layer, x).into_data().iter::<f32>().collect()
            })
        })
    }

    #[test]
    fn masks_belong_to_an_image_a_step_and_a_layer() {
        let device = Device::flex().autodiff();
        let of = |first, images, step| dropped(position(first, step), images, &device);
        let [first, second] = of(0, 6, 3);
        let parts = [of(0, 2, 3), of(2, 3, 3), of(5, 1, 3)];
        assert_eq!(
            parts.each_ref().map(|[first, _]| first.clone()).concat(),
            first
        );
        assert_eq!(
            parts.each_ref().map(|[_, second]| second.clone()).concat(),
            second
        );
        assert_ne!(first, second);
        assert_ne!(of(0, 6, 4)[0], first);
        assert_ne!(first[..2048], first[2048..4096]);
    }

    #[test]
    fn the_mean_stays() {
        let [values, _] = dropped(position(0, 0), 6, &Device::flex().autodiff());
        let kept = 1.0 / 0.75;
        assert!(values.iter().all(|&value| value == 0.0 || value == kept));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn nothing_is_dropped_without_gradients_and_outside_masks_are_not_repeated() {
        let [values, _] = dropped(position(0, 0), 1, &Device::flex());
        assert!(values.iter().all(|&value| value == 1.0));
        let layer = DropoutConfig::new(0.25).init();
        let x = Tensor::<4>::ones([1, 16, 16, 8], &Device::flex().autodiff());
        let outside = || dropout(&layer, x.clone()).into_data();
        assert_ne!(outside(), outside());
    }
}
