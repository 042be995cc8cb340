//! Group normalisation (Wu and He 2018) and the SiLU that nearly always follows it, in one pass over the data.
//!
//! ```text
//! xhat = (x - mean) / sqrt(variance + epsilon)      over the channels of a group and all positions
//! z    = gamma xhat + beta                          gamma and beta per channel
//! out  = z   or   z sigmoid(z)                      (SiLU: Elfwing et al. 2017)
//! ```

use pulp::Arch;
use rayon::prelude::*;

use crate::exponential::sigmoid;

/// What follows the normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Silu,
}

/// All sizes of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Groups {
    pub(crate) channels: usize,
    pub(crate) groups: usize,
    /// Height times width.
    pub(crate) positions: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
}

/// Of one group of one image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    inverse_deviation: f32,
}

/// The gradients of the input and of the scale and shift.
pub(crate) struct Gradients {
    pub(crate) input: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

impl Groups {
    fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }

    /// Numbers in one group of one image.
    fn group_len(&self) -> usize {
        self.channels_per_group() * self.positions
    }

    /// The part of a parameter that belongs to the group with this index in the batch.
    fn of_group<'a>(&self, parameter: &'a [f32], index: usize) -> &'a [f32] {
        let channels = self.channels_per_group();
        let from = index % self.groups * channels;
        &parameter[from..from + channels]
    }
}

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
            let gamma = groups.of_group(gamma, index);
            let beta = groups.of_group(beta, index);
            arch.dispatch(|| {
                *statistics = measure(groups, input);
                normalise_group(groups, *statistics, input, gamma, beta, output);
            });
        });
    (output, statistics)
}

#[inline(always)]
fn measure(groups: &Groups, input: &[f32]) -> Statistics {
    let count = input.len() as f32;
    let mean = sum_of(input, input, |x, _| x) / count;
    let variance = sum_of(input, input, |x, _| (x - mean) * (x - mean)) / count;
    Statistics {
        mean,
        inverse_deviation: 1.0 / (variance + groups.epsilon).sqrt(),
    }
}

#[inline(always)]
fn normalise_group(
    groups: &Groups,
    statistics: Statistics,
    input: &[f32],
    gamma: &[f32],
    beta: &[f32],
    output: &mut [f32],
) {
    let Statistics {
        mean,
        inverse_deviation,
    } = statistics;
    let channels = output
        .chunks_exact_mut(groups.positions)
        .zip(input.chunks_exact(groups.positions));
    for (((output, input), gamma), beta) in channels.zip(gamma).zip(beta) {
        let scale = gamma * inverse_deviation;
        for (output, x) in output.iter_mut().zip(input) {
            *output = (x - mean) * scale + beta;
        }
        if groups.activation == Activation::Silu {
            for output in output {
                *output *= sigmoid(*output);
            }
        }
    }
}

/// All gradients, from that of the output and what the forward pass saw.
///
/// With `dz` the gradient at `z` and sums over a group of `N` numbers:
/// `dx = (gamma dz - (sum(gamma dz) + xhat sum(gamma dz xhat)) / N) / deviation`.
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
        .zip(input.par_chunks(len))
        .zip(output_gradient.par_chunks(len))
        .zip(gammas.par_chunks_mut(channels))
        .zip(betas.par_chunks_mut(channels))
        .zip(statistics)
        .enumerate()
        .for_each(
            |(index, (((((result, input), output_gradient), gammas), betas), statistics))| {
                let group = Group {
                    groups,
                    statistics: *statistics,
                    input,
                    gamma: groups.of_group(gamma, index),
                    beta: groups.of_group(beta, index),
                    output_gradient,
                };
                arch.dispatch(|| group.gradients(result, gammas, betas));
            },
        );
    Gradients {
        input: input_gradient,
        gamma: sum_over_batch(&gammas, groups.channels),
        beta: sum_over_batch(&betas, groups.channels),
    }
}

/// One group of one image on the way back.
struct Group<'a> {
    groups: &'a Groups,
    statistics: Statistics,
    input: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    output_gradient: &'a [f32],
}

impl Group<'_> {
    #[inline(always)]
    fn gradients(&self, result: &mut [f32], gammas: &mut [f32], betas: &mut [f32]) {
        let Statistics {
            mean,
            inverse_deviation,
        } = self.statistics;
        let positions = self.groups.positions;
        let (mut along_ones, mut along_input) = (0.0, 0.0);
        for (channel, dz) in result.chunks_exact_mut(positions).enumerate() {
            let range = channel * positions..(channel + 1) * positions;
            let input = &self.input[range.clone()];
            dz.copy_from_slice(&self.output_gradient[range]);
            if self.groups.activation == Activation::Silu {
                let (scale, beta) = (self.gamma[channel] * inverse_deviation, self.beta[channel]);
                for (dz, x) in dz.iter_mut().zip(input) {
                    let z = (x - mean) * scale + beta;
                    let s = sigmoid(z);
                    *dz *= s * (1.0 + z * (1.0 - s));
                }
            }
            betas[channel] = sum_of(dz, dz, |dz, _| dz);
            gammas[channel] = sum_of(dz, input, |dz, x| dz * (x - mean)) * inverse_deviation;
            along_ones += self.gamma[channel] * betas[channel];
            along_input += self.gamma[channel] * gammas[channel];
        }
        let count = self.input.len() as f32;
        let (along_ones, along_input) = (along_ones / count, along_input / count);
        let channels = result
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

fn sum_over_batch(values: &[f32], channels: usize) -> Vec<f32> {
    let mut total = vec![0.0; channels];
    for image in values.chunks_exact(channels) {
        for (total, value) in total.iter_mut().zip(image) {
            *total += value;
        }
    }
    total
}

/// The sum of `values`, always in the same order.
pub(crate) fn sum(values: &[f32]) -> f32 {
    Arch::new().dispatch(|| sum_of(values, values, |x, _| x))
}

/// `sum of term(left, right)` in 64 interleaved partial sums: vectors for the compiler, and more accurate than one.
#[inline(always)]
fn sum_of(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += term(left[lane], right[lane]);
        }
    }
    for ((lane, left), right) in lanes.iter_mut().zip(left_rest).zip(right_rest) {
        *lane += term(*left, *right);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_count_every_number_once() {
        for len in [0usize, 1, 63, 64, 65, 127, 128, 1000] {
            let values: Vec<f32> = (0..len).map(|index| index as f32).collect();
            assert_eq!(sum(&values) as usize, len * len.saturating_sub(1) / 2);
        }
    }

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
