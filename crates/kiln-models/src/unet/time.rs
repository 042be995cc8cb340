//! From timesteps to the vectors for the residual blocks.

use std::f32::consts::PI;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};

use crate::blocks::linear;
use crate::initialization::FOURIER_SCALE;

use super::config::{TimeEmbeddingType, UNet2dConfig};

/// Longest wavelength of the positional embedding, in units of 2 pi timesteps (Vaswani et al. 2017).
const MAX_PERIOD: f32 = 10_000.0;
/// Highest frequency of the noise power's embedding; the lowest is 1 (Keras' example of DDIM, clear-diffusion-keras).
const MAX_FREQUENCY: f32 = 1000.0;

/// How a timestep becomes a vector.
#[derive(Module, Debug)]
pub(crate) enum TimeProjection {
    Positional(PositionalProjection),
    Fourier(FourierProjection),
    Learned(Embedding),
    NoisePower(NoisePowerProjection),
}

/// Sines and cosines of fixed frequencies.
#[derive(Module, Debug)]
pub(crate) struct PositionalProjection {
    channels: usize,
    freq_shift: usize,
    flip_sin_to_cos: bool,
}

/// Sines and cosines of the noise power, of fixed frequencies.
#[derive(Module, Debug)]
pub(crate) struct NoisePowerProjection {
    channels: usize,
}

/// Sines and cosines of random frequencies of ln t.
#[derive(Module, Debug)]
pub(crate) struct FourierProjection {
    /// `[channels / 2]`; drawn once and not trained.
    weight: Param<Tensor<1>>,
}

impl TimeProjection {
    pub(crate) fn new(config: &UNet2dConfig, device: &Device) -> Self {
        let channels = config.time_projection_channels();
        match config.time_embedding_type {
            TimeEmbeddingType::Positional => Self::Positional(PositionalProjection {
                channels,
                freq_shift: config.freq_shift,
                flip_sin_to_cos: config.flip_sin_to_cos,
            }),
            TimeEmbeddingType::Fourier => {
                let frequencies = Initializer::Normal {
                    mean: 0.0,
                    std: FOURIER_SCALE.into(),
                };
                let weight = frequencies.init([channels / 2], device);
                Self::Fourier(FourierProjection {
                    weight: weight.set_require_grad(false),
                })
            }
            TimeEmbeddingType::Learned => {
                let rows = config.num_train_timesteps.unwrap_or_default();
                Self::Learned(EmbeddingConfig::new(rows, channels).init(device))
            }
            TimeEmbeddingType::NoisePower | TimeEmbeddingType::NoisePowerInput => {
                Self::NoisePower(NoisePowerProjection { channels })
            }
        }
    }

    /// Timesteps, or noise powers, `[batch]` to `[batch, channels]`.
    pub(crate) fn forward(&self, timesteps: Tensor<1>) -> Tensor<2> {
        match self {
            Self::Positional(projection) => projection.forward(timesteps),
            Self::Fourier(projection) => projection.forward(timesteps),
            Self::Learned(table) => table.weight.val().select(0, timesteps.int()),
            Self::NoisePower(projection) => projection.forward(timesteps),
        }
    }
}

impl PositionalProjection {
    /// `[sin(t f_i), cos(t f_i)]` with `f_i = 10000^(-i / (n - freq_shift))`, i in 0..n, n = channels / 2.
    ///
    /// In f32 and in PyTorch's order of operations: at t = 1000 one rounding more or less changes the fifth digit of a
    /// sine.
    fn forward(&self, timesteps: Tensor<1>) -> Tensor<2> {
        let count = self.channels / 2;
        let divisor = count as f32 - self.freq_shift as f32;
        let frequencies: Vec<f32> = (0..count)
            .map(|i| (-MAX_PERIOD.ln() * i as f32 / divisor).exp())
            .collect();
        let [mut sines, mut cosines] = sines_and_cosines(timesteps, frequencies);
        if self.flip_sin_to_cos {
            std::mem::swap(&mut sines, &mut cosines);
        }
        joined(sines, cosines, self.channels)
    }
}

impl NoisePowerProjection {
    /// `[sin(2 pi f_i p), cos(2 pi f_i p)]` of noise powers `p` in [0, 1], with `f_i = 1000^(i / (n - 1))`, i in 0..n,
    /// n = channels / 2.
    fn forward(&self, powers: Tensor<1>) -> Tensor<2> {
        let count = self.channels / 2;
        let frequencies: Vec<f32> = (0..count)
            .map(|i| MAX_FREQUENCY.powf(i as f32 / (count - 1) as f32) * 2.0 * PI)
            .collect();
        let [sines, cosines] = sines_and_cosines(powers, frequencies);
        joined(sines, cosines, self.channels)
    }
}

impl FourierProjection {
    /// `[sin(2 pi w ln t), cos(2 pi w ln t)]`.
    fn forward(&self, timesteps: Tensor<1>) -> Tensor<2> {
        let levels = timesteps.log().unsqueeze_dim::<2>(1);
        // Multiplies the factors in PyTorch's order, because the angles are large.
        let angles = levels * self.weight.val().unsqueeze_dim::<2>(0) * 2.0 * PI;
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
    }
}

/// The sines and the cosines of `x` `[batch]` times each of the `frequencies`, each `[batch, frequencies]`.
fn sines_and_cosines(x: Tensor<1>, frequencies: Vec<f32>) -> [Tensor<2>; 2] {
    let shape = [1, frequencies.len()];
    let frequencies = Tensor::from_data(TensorData::new(frequencies, shape), &x.device());
    let angles = x.unsqueeze_dim::<2>(1) * frequencies;
    [angles.clone().sin(), angles.cos()]
}

/// Both halves, and a zero if the number of channels is odd.
fn joined(first: Tensor<2>, second: Tensor<2>, channels: usize) -> Tensor<2> {
    let [batch, count] = first.dims();
    let padding = Tensor::zeros([batch, channels - 2 * count], &first.device());
    Tensor::cat(vec![first, second, padding], 1)
}

/// Two linear layers with a SiLU between them: diffusers' `TimestepEmbedding`.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(channels_in: usize, channels_out: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(channels_in, channels_out).init(device),
            linear_2: LinearConfig::new(channels_out, channels_out).init(device),
        }
    }

    /// `[batch, channels_in]` to `[batch, channels_out]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(&self.linear_2, silu(linear(&self.linear_1, x)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_powers_are_embedded_as_in_keras_example() {
        let powers = [0.0, 0.3, 1.0];
        let projection = NoisePowerProjection { channels: 8 };
        let found = projection.forward(Tensor::from_floats(powers, &Device::flex()));
        let found = found.into_data().try_to_vec::<f32>().unwrap();
        // `2 pi exp(linspace(ln 1, ln 1000, 4))`, as written there.
        let expected = powers.iter().flat_map(|&power| {
            let angle = move |i: i32| {
                let frequency = (f64::from(i) / 3.0 * 1000f64.ln()).exp();
                2.0 * std::f64::consts::PI * frequency * power
            };
            let sines = (0..4).map(move |i| angle(i).sin());
            sines.chain((0..4).map(move |i| angle(i).cos()))
        });
        for (found, expected) in found.iter().zip(expected) {
            // Angles up to 6,283 have rounding errors of 2e-4 in f32.
            assert!(
                (f64::from(*found) - expected).abs() < 1e-3,
                "{found} {expected}"
            );
        }
    }
}
