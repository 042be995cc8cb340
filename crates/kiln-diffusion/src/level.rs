//! The amount of noise at one point of the diffusion: `zt = a z0 + b noise`.

use burn::tensor::Tensor;

/// A rate that scales images: one number for the whole batch, or one number an image.
///
/// Sampling has every image at the same level and uses `f64`; training has each image at its own
/// and uses a tensor `[batch, 1, 1, 1]`. The formulas are written once, for both.
pub trait Rate {
    /// `rate * images`, images being `[batch, channels, height, width]`.
    fn times(&self, images: Tensor<4>) -> Tensor<4>;
    /// `images / rate`, images being `[batch, channels, height, width]`.
    fn divides(&self, images: Tensor<4>) -> Tensor<4>;
}

impl Rate for f64 {
    fn times(&self, images: Tensor<4>) -> Tensor<4> {
        images * *self
    }

    fn divides(&self, images: Tensor<4>) -> Tensor<4> {
        images / *self
    }
}

impl Rate for Tensor<4> {
    fn times(&self, images: Tensor<4>) -> Tensor<4> {
        images * self.clone()
    }

    fn divides(&self, images: Tensor<4>) -> Tensor<4> {
        images / self.clone()
    }
}

/// The signal rate a and the noise rate b of `zt = a z0 + b noise`, with a² + b² = 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates<R = f64> {
    /// a: how much of the image is left, sqrt(alpha_bar), from 1 (clean) to 0.
    pub signal: R,
    /// b: how much noise there is, sqrt(1 - alpha_bar), from 0 (clean) to 1.
    pub noise: R,
}

impl<R: Rate> Rates<R> {
    /// The forward process: `zt = a z0 + b noise` (Ho et al. 2020, eq. 4). All are `[batch,
    /// channels, height, width]`.
    pub fn add_noise(&self, z0: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        self.signal.times(z0) + self.noise.times(noise)
    }
}

impl Rates {
    /// ln(a² / b²): positive where the signal dominates, minus infinity for pure noise.
    pub fn log_snr(&self) -> f64 {
        2.0 * (self.signal.ln() - self.noise.ln())
    }

    /// The rates with this ln(a² / b²).
    pub fn from_log_snr(log_snr: f64) -> Self {
        // a² = sigmoid(log_snr) and b² = sigmoid(-log_snr), each computed without the cancellation
        // of 1 - a².
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        Self {
            signal: sigmoid(log_snr).sqrt(),
            noise: sigmoid(-log_snr).sqrt(),
        }
    }
}

/// One point of a sampling trajectory: what the network is told, and how much signal and noise
/// there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The number handed to the network, from 0 to T - 1; fractions are legal.
    pub timestep: f64,
    /// The signal and noise rates there.
    pub rates: Rates,
}

impl Level {
    /// This level's timestep as a tensor `[batch]`, one entry for each image of `zt` `[batch,
    /// channels, height, width]`.
    pub fn timesteps(&self, zt: &Tensor<4>) -> Tensor<1> {
        let [batch, ..] = zt.dims();
        Tensor::full([batch], self.timestep, &zt.device())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rates_and_log_snr_are_one_number(log_snr in -30.0..30.0f64) {
            let rates = Rates::from_log_snr(log_snr);
            prop_assert!((rates.signal.powi(2) + rates.noise.powi(2) - 1.0).abs() < 1e-14);
            prop_assert!((rates.log_snr() - log_snr).abs() < 1e-12);
        }
    }

    #[test]
    fn a_rate_per_image_scales_each_image_by_its_own() {
        let device = Device::flex();
        let images = Tensor::<4>::ones([2, 1, 2, 2], &device);
        let rates = Tensor::<1>::from_floats([2.0, 4.0], &device).reshape([2, 1, 1, 1]);
        let scaled: Vec<f32> = Rate::times(&rates, images.clone())
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(scaled, [2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0]);
        let divided: Vec<f32> = Rate::divides(&rates, images)
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(divided, [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]);
    }

    #[test]
    fn the_network_is_told_a_timestep_per_image() {
        let level = Level {
            timestep: 12.5,
            rates: Rates::from_log_snr(0.0),
        };
        let timesteps = level.timesteps(&Tensor::zeros([3, 1, 2, 2], &Device::flex()));
        assert_eq!(
            timesteps.into_data().try_to_vec::<f32>().unwrap(),
            [12.5, 12.5, 12.5]
        );
    }
}
