//! The output of a group normalisation.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Activation, Groups, Statistics};
use crate::exponential::sigmoid;
use crate::reduction::sum_of;

/// The output, `[batch, channels, positions]` as `input`, and the statistics, `[batch, groups]`.
pub(crate) fn normalise(
    groups: &Groups,
    input: &[f32],
    gamma: &[f32],
    beta: &[f32],
) -> (Vec<f32>, Vec<Statistics>) {
    let len = groups.group_len();
    let mut output = vec![0.0; input.len()];
    let mut statistics = vec![Statistics::default(); input.len() / len];
    let arch = Arch::new();
    output
        .par_chunks_mut(len)
        .zip(input.par_chunks(len))
        .zip(&mut statistics)
        .enumerate()
        .for_each(|(index, ((output, input), statistics))| {
            *statistics = arch.dispatch(Group {
                groups,
                input,
                gamma: groups.of_group(gamma, index),
                beta: groups.of_group(beta, index),
                output,
            });
        });
    (output, statistics)
}

/// One group of one image.
struct Group<'a> {
    groups: &'a Groups,
    input: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Group<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Statistics {
        let statistics = self.statistics();
        let Statistics {
            mean,
            inverse_deviation,
        } = statistics;
        let positions = self.groups.positions;
        let channels = self
            .output
            .chunks_exact_mut(positions)
            .zip(self.input.chunks_exact(positions));
        for (((output, input), gamma), beta) in channels.zip(self.gamma).zip(self.beta) {
            let scale = gamma * inverse_deviation;
            if self.groups.activation == Activation::Silu {
                for (output, x) in output.iter_mut().zip(input) {
                    let z = (x - mean) * scale + beta;
                    *output = z * sigmoid(z);
                }
            } else {
                for (output, x) in output.iter_mut().zip(input) {
                    *output = (x - mean) * scale + beta;
                }
            }
        }
        statistics
    }
}

impl Group<'_> {
    #[inline(always)]
    fn statistics(&self) -> Statistics {
        let count = self.input.len() as f32;
        let mean = sum_of(self.input, self.input, |x, _| x) / count;
        let variance = sum_of(self.input, self.input, |x, _| (x - mean) * (x - mean)) / count;
        Statistics {
            mean,
            inverse_deviation: 1.0 / (variance + self.groups.epsilon).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_group_becomes_its_shift() {
        let groups = Groups {
            channels: 2,
            groups: 1,
            positions: 3,
            epsilon: 1e-6,
            activation: Activation::Identity,
        };
        let (output, _) = normalise(&groups, &[5.0; 6], &[2.0, 3.0], &[0.25, -0.5]);
        assert_eq!(output, [0.25, 0.25, 0.25, -0.5, -0.5, -0.5]);
    }
}
