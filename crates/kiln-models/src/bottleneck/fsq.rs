//! Finite scalar quantization (Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple"): each channel is
//! bounded and rounded on its own. The codes are the points of a grid, so there is nothing to learn or to keep in a file,
//! and no term in the loss.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Layer, Passed};

/// Widens the bounds a little, so that the outermost levels are reached.
const MARGIN: f64 = 1e-3;

/// Rounds channel `i` of the latents to one of `levels[i]` values.
#[derive(Module, Debug)]
pub struct Fsq {
    #[module(skip)]
    levels: Vec<usize>,
}

/// Latents `[batch, levels, height, width]`, bounded and as whole numbers.
struct Rounded {
    /// Strictly between the outermost whole numbers of a level, give or take half.
    bounded: Tensor<4>,
    /// From `-floor(levels / 2)`; without gradient.
    whole: Tensor<4>,
}

impl Fsq {
    /// One channel of latents for each of the `levels`: the number of values that it can have.
    pub fn new(levels: &[usize]) -> Self {
        Self {
            levels: levels.to_vec(),
        }
    }

    /// One number for each channel, `[1, levels, 1, 1]`.
    fn constants(&self, of: impl Fn(f64) -> f64, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = (self.levels.iter())
            .map(|&levels| of(levels as f64) as f32)
            .collect();
        Tensor::from_data(
            TensorData::new(values, [1, self.levels.len(), 1, 1]),
            device,
        )
    }

    /// `b = tanh(z + s) h - o` and its rounding, with `h = (L - 1) (1 + margin) / 2`, `o = 1/2` for an even number of
    /// levels `L` and else 0, `s = atanh(o / h)`: a latent of zero is the middle level.
    fn round(&self, latents: Tensor<4>) -> Rounded {
        let device = latents.device();
        let half = |levels: f64| (levels - 1.0) * (1.0 + MARGIN) / 2.0;
        let offset = |levels: f64| if levels % 2.0 == 0.0 { 0.5 } else { 0.0 };
        let shift = self.constants(|levels| (offset(levels) / half(levels)).atanh(), &device);
        let (half, offset) = (
            self.constants(half, &device),
            self.constants(offset, &device),
        );
        let bounded = (latents + shift).tanh() * half - offset;
        let whole = bounded.clone().without_autodiff().round();
        Rounded { bounded, whole }
    }

    /// Whole numbers to about [-1, 1]: divided by `floor(L / 2)`.
    fn scaled(&self, whole: Tensor<4>) -> Tensor<4> {
        let width = self.constants(|levels| (levels / 2.0).floor(), &whole.device());
        whole / width
    }

    /// `sum of (whole + floor(L / 2)) * (the product of the earlier channels' levels)`: `[batch, 1, height, width]`.
    fn codes_of(&self, whole: Tensor<4>) -> Tensor<4, Int> {
        let device = whole.device();
        let lowest = self.constants(|levels| (levels / 2.0).floor(), &device);
        let places = self.levels.iter().scan(1, |place, &levels| {
            let this = *place;
            *place *= levels;
            Some(this as f32)
        });
        let places = TensorData::new(places.collect::<Vec<_>>(), [1, self.levels.len(), 1, 1]);
        let places = Tensor::from_data(places, &device);
        ((whole + lowest) * places).sum_dim(1).int()
    }
}

impl Layer for Fsq {
    fn decodable(&self, latents: Tensor<4>) -> Tensor<4> {
        self.scaled(self.round(latents).whole)
    }

    fn pass(&self, encoded: Tensor<4>, _noise: Option<Tensor<4>>) -> Passed {
        let Rounded { bounded, whole } = self.round(encoded);
        let straight_through = bounded.clone() + (whole.clone() - bounded.without_autodiff());
        Passed {
            latents: self.scaled(straight_through),
            codes: Some(self.codes_of(whole)),
            terms: Vec::new(),
        }
    }

    fn codes(&self) -> Option<usize> {
        Some(self.levels.iter().product())
    }

    fn chosen(&self, latents: Tensor<4>) -> Option<Tensor<4, Int>> {
        let Rounded { whole, .. } = self.round(latents.without_autodiff());
        Some(self.codes_of(whole))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::bottleneck::fixtures::{Fixture, integers};

    #[test]
    fn equals_the_reference() {
        let fixture = Fixture::others(&Device::flex().autodiff());
        let fsq = Fsq::new(&[8, 5, 4]);
        let latents = fixture.floats::<4>("latents").require_grad();
        let passed = fsq.pass(latents.clone(), None);
        fixture.assert_close("fsq.quantized", passed.latents.clone());
        assert_eq!(
            integers(passed.codes.expect("codes")),
            fixture.integers("fsq.chosen")
        );
        let gradients = (passed.latents * fixture.floats("upstream"))
            .sum()
            .backward();
        let of_latents = latents.grad(&gradients).expect("a gradient");
        fixture.assert_close("fsq.latents_gradient", of_latents);
    }

    #[test]
    fn every_value_of_a_channel_is_reached_and_has_its_own_code() {
        let device = Device::flex();
        for levels in 3..10 {
            let fsq = Fsq::new(&[levels]);
            let wide: Vec<f32> = (-400..=400).map(|step| step as f32 / 50.0).collect();
            let latents = TensorData::new(wide, [1, 1, 801, 1]);
            let latents = Tensor::<4>::from_data(latents, &device);
            let mut codes = integers(fsq.chosen(latents.clone()).expect("codes"));
            codes.dedup();
            assert_eq!(codes, (0..levels as i32).collect::<Vec<_>>());
            let values = fsq.decodable(latents).into_data();
            assert!(values.iter::<f32>().all(|value| value.abs() <= 1.0));
        }
    }

    #[test]
    fn training_and_decoding_agree() {
        let device = Device::flex();
        let fixture = Fixture::others(&device);
        let fsq = Fsq::new(&[8, 5, 4]);
        let passed = fsq.pass(fixture.floats("latents"), None).latents;
        let decoded = fsq.decodable(fixture.floats("latents"));
        passed
            .into_data()
            .assert_approx_eq::<f32>(&decoded.into_data(), Tolerance::absolute(1e-6));
    }
}
