//! The gradients of a group normalisation.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Activation, Groups, Statistics};
use crate::exponential::sigmoid;
use crate::reduction::{sum_of, sum_of_rows};

/// The gradients of the input and of the scale and shift.
pub(crate) struct Gradients {
    pub(crate) input: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// All gradients, from that of the output and what the forward pass saw.
///
/// With `dz` the gradient at `z` and sums over a group of `N` numbers:
///
/// ```text
/// dx = (gamma dz - (sum(gamma dz) + xhat sum(gamma dz xhat)) / N) / sqrt(variance + epsilon)
/// ```
pub(crate) fn gradients(
    groups: &Groups,
    input: &[f32],
    gamma: &[f32],
    beta: &[f32],
    statistics: &[Statistics],
    output_gradient: &[f32],
) -> Gradients {
    let len = groups.group_len();
    let channels = groups.channels_per_group();
    let images = input.len() / (groups.channels * groups.positions);
    let mut input_gradient = vec![0.0; input.len()];
    // [batch, channels], summed over the batch in order afterwards.
    let mut gammas = vec![0.0; images * groups.channels];
    let mut betas = vec![0.0; images * groups.channels];
    let arch = Arch::new();
    input_gradient
        .par_chunks_mut(len)
        .zip(gammas.par_chunks_mut(channels))
        .zip(betas.par_chunks_mut(channels))
        .enumerate()
        .for_each(|(index, ((result, gamma_result), beta_result))| {
            let range = index * len..(index + 1) * len;
            arch.dispatch(Group {
                groups,
                statistics: statistics[index],
                input: &input[range.clone()],
                gamma: groups.of_group(gamma, index),
                beta: groups.of_group(beta, index),
                output_gradient: &output_gradient[range],
                result,
                gamma_result,
                beta_result,
            });
        });
    Gradients {
        input: input_gradient,
        gamma: sum_of_rows(&gammas, groups.channels),
        beta: sum_of_rows(&betas, groups.channels),
    }
}

/// One group of one image.
struct Group<'a> {
    groups: &'a Groups,
    statistics: Statistics,
    input: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    output_gradient: &'a [f32],
    result: &'a mut [f32],
    gamma_result: &'a mut [f32],
    beta_result: &'a mut [f32],
}

impl WithSimd for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        self.back_to_affine();
        self.back_to_input();
    }
}

impl Group<'_> {
    /// `dz` into `result`, and from it the gradients of scale and shift.
    #[inline(always)]
    fn back_to_affine(&mut self) {
        let Statistics {
            mean,
            inverse_deviation,
        } = self.statistics;
        let positions = self.groups.positions;
        for (channel, dz) in self.result.chunks_exact_mut(positions).enumerate() {
            let range = channel * positions..(channel + 1) * positions;
            let input = &self.input[range.clone()];
            let output_gradient = &self.output_gradient[range];
            if self.groups.activation == Activation::Silu {
                let (scale, beta) = (self.gamma[channel] * inverse_deviation, self.beta[channel]);
                for ((dz, x), gradient) in dz.iter_mut().zip(input).zip(output_gradient) {
                    let z = (x - mean) * scale + beta;
                    let s = sigmoid(z);
                    *dz = gradient * s * (1.0 + z * (1.0 - s));
                }
            } else {
                dz.copy_from_slice(output_gradient);
            }
            self.beta_result[channel] = sum_of(dz, dz, |dz, _| dz);
            self.gamma_result[channel] =
                sum_of(dz, input, |dz, x| dz * (x - mean)) * inverse_deviation;
        }
    }

    /// `dx` in place of `dz`.
    #[inline(always)]
    fn back_to_input(&mut self) {
        let Statistics {
            mean,
            inverse_deviation,
        } = self.statistics;
        let count = self.input.len() as f32;
        let (mut along_ones, mut along_input) = (0.0, 0.0);
        for (channel, gamma) in self.gamma.iter().enumerate() {
            along_ones += gamma * self.beta_result[channel] / count;
            along_input += gamma * self.gamma_result[channel] / count;
        }
        let positions = self.groups.positions;
        let channels = self
            .result
            .chunks_exact_mut(positions)
            .zip(self.input.chunks_exact(positions));
        for ((dz, input), gamma) in channels.zip(self.gamma) {
            for (dz, x) in dz.iter_mut().zip(input) {
                let normalised = (x - mean) * inverse_deviation;
                *dz = (gamma * *dz - along_ones - normalised * along_input) * inverse_deviation;
            }
        }
    }
}
