//! The amount of noise at one point of the diffusion: `zt = a z0 + b noise`.

use burn::tensor::{Device, Tensor, TensorData};

/// A rate that scales images: one number for the whole batch, or one per image.
///
/// In sampling all images have the same level, an `f64`; in training each image has its own, in a tensor
/// `[batch, 1, 1, 1]`. The formulas are written once, for both.
pub trait Rate {
    /// `rate * images`, images being `[batch, channels, height, width]`.
    fn times(&self, images: Tensor<4>) -> Tensor<4>;
    /// `images / rate`, images being `[batch, channels, height, width]`.
    fn divides(&self, images: Tensor<4>) -> Tensor<4>;
    /// `rate + other`.
    fn plus(&self, other: &Self) -> Self;
}

impl Rate for f64 {
    fn times(&self, images: Tensor<4>) -> Tensor<4> {
        images * *self
    }

    fn divides(&self, images: Tensor<4>) -> Tensor<4> {
        images / *self
    }

    fn plus(&self, other: &Self) -> Self {
        self + other
    }
}

impl Rate for Tensor<4> {
    fn times(&self, images: Tensor<4>) -> Tensor<4> {
        images * self.clone()
    }

    fn divides(&self, images: Tensor<4>) -> Tensor<4> {
        images / self.clone()
    }

    fn plus(&self, other: &Self) -> Self {
        self.clone() + other.clone()
    }
}

/// The signal rate a and the noise rate b of `zt = a z0 + b noise`, with a² + b² = 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates<R = f64> {
    /// a: the share of the image that is left, sqrt(alpha_bar), from 1 (clean) to 0.
    pub signal: R,
    /// b: the amount of noise, sqrt(1 - alpha_bar), from 0 (clean) to 1.
    pub noise: R,
}

impl<R: Rate> Rates<R> {
    /// The forward process: `zt = a z0 + b noise` (Ho et al. 2020, eq. 4). All are `[batch,
    /// channels, height, width]`.
    pub fn add_noise(&self, z0: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        self.signal.times(z0) + self.noise.times(noise)
    }
}

/// The signal power that a curve towards pure noise keeps at least, as in Chen 2023 ("On the Importance of Noise
/// Scheduling for Diffusion Models", algorithm 1).
const LEAST_SIGNAL_POWER: f64 = 1e-9;

impl Rates {
    /// ln(a² / b²): positive where the signal dominates, minus infinity for pure noise.
    pub fn log_snr(&self) -> f64 {
        2.0 * (self.signal.ln() - self.noise.ln())
    }

    /// b².
    pub fn noise_power(&self) -> f64 {
        self.noise.powi(2)
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

    /// The rates whose ln a² is this, below 0. b² = 1 - a² is computed without cancellation.
    pub(crate) fn from_log_signal_power(log_power: f64) -> Self {
        Self {
            signal: (log_power / 2.0).exp(),
            noise: (-log_power.exp_m1()).sqrt(),
        }
    }

    /// The rates whose ln b² is this, below 0.
    pub(crate) fn from_log_noise_power(log_power: f64) -> Self {
        Self {
            signal: (-log_power.exp_m1()).sqrt(),
            noise: (log_power / 2.0).exp(),
        }
    }

    /// The rates with this a.
    pub(crate) fn from_signal(signal: f64) -> Self {
        Self {
            signal,
            noise: (1.0 - signal * signal).sqrt(),
        }
    }

    /// The rates that are the cosine and the sine of this angle.
    pub(crate) fn at_angle(angle: f64) -> Self {
        Self {
            signal: angle.cos(),
            noise: angle.sin(),
        }
    }

    /// The rates with this a² on a curve towards pure noise, which it never quite reaches.
    pub(crate) fn towards_pure_noise(signal_power: f64) -> Self {
        let signal_power = signal_power.max(LEAST_SIGNAL_POWER);
        Self {
            signal: signal_power.sqrt(),
            noise: (1.0 - signal_power).sqrt(),
        }
    }

    /// The rates of a training batch, one pair per image: two tensors `[batch, 1, 1, 1]`.
    pub fn batch(rates: &[Rates], device: &Device) -> Rates<Tensor<4>> {
        Rates {
            signal: per_image(rates.iter().map(|rates| rates.signal), device),
            noise: per_image(rates.iter().map(|rates| rates.noise), device),
        }
    }
}

/// A number for each image of a batch, `[batch, 1, 1, 1]`.
pub fn per_image(values: impl IntoIterator<Item = f64>, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    let shape = [values.len(), 1, 1, 1];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// One point of a sampling trajectory: the timestep that the network is given, and the amounts of signal and noise.
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
    fn a_batch_has_rates_of_its_own() {
        let rates = [3.0, 0.0, -4.0].map(Rates::from_log_snr);
        let batch = Rates::batch(&rates, &Device::flex());
        for (tensor, expected) in [
            (batch.signal, rates.map(|rates| rates.signal as f32)),
            (batch.noise, rates.map(|rates| rates.noise as f32)),
        ] {
            assert_eq!(tensor.dims(), [3, 1, 1, 1]);
            assert_eq!(tensor.into_data().try_to_vec::<f32>().unwrap(), expected);
        }
    }

    #[test]
    fn powers_near_nothing_keep_their_digits() {
        let few = -40.0f64; // 1 - e^-40 is 1
        let noisy = Rates::from_log_signal_power(few);
        assert!((noisy.signal.powi(2).ln() - few).abs() < 1e-12);
        assert_eq!(noisy.noise, 1.0);
        let almost_clean = Rates::from_log_signal_power(-1e-18);
        assert!((almost_clean.noise - 1e-9).abs() < 1e-21);
        let mirrored = Rates::from_log_noise_power(few);
        assert_eq!(
            (mirrored.noise, mirrored.signal),
            (noisy.signal, noisy.noise)
        );
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
