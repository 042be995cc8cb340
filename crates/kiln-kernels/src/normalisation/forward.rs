//! The output of a group normalisation, number by number.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Activation, Groups, Statistics, statistics};
use crate::arrays::{self, Array};
use crate::exponential::sigmoids;
use crate::instructions::vectorized;

/// A normalisation whose statistics are known, for the channels of one image: `(x - mean) scale + shift`, and its
/// activation.
#[derive(Clone, Debug)]
pub(crate) struct ChannelMap {
    pub(crate) mean: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    pub(crate) activation: Activation,
}

impl ChannelMap {
    /// `statistics` belong to the image's groups; `gamma` and `beta` are the parameters of all channels.
    pub(crate) fn new(
        groups: &Groups,
        statistics: &[Statistics],
        gamma: &[f32],
        beta: &[f32],
    ) -> Self {
        let mut mean = Vec::with_capacity(groups.channels);
        let mut scale = Vec::with_capacity(groups.channels);
        let gammas = gamma.chunks_exact(groups.channels_per_group());
        for (gamma, statistics) in gammas.zip(statistics) {
            mean.extend(gamma.iter().map(|_| statistics.mean));
            scale.extend(
                gamma
                    .iter()
                    .map(|gamma| gamma * statistics.inverse_deviation),
            );
        }
        Self {
            mean,
            scale,
            shift: beta.to_vec(),
            activation: groups.activation,
        }
    }

    /// Maps whole positions, `[.., channels]`.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, simd: S, input: &[f32], output: &mut [f32]) {
        match self.activation {
            Activation::Identity => self.map::<S, false>(simd, input, output),
            Activation::Silu => self.map::<S, true>(simd, input, output),
        }
    }

    #[inline(always)]
    fn map<S: Simd, const SILU: bool>(&self, simd: S, input: &[f32], output: &mut [f32]) {
        let channels = self.mean.len();
        let (means, last_mean) = S::as_simd_f32s(&self.mean);
        let (scales, last_scale) = S::as_simd_f32s(&self.scale[..channels]);
        let (shifts, last_shift) = S::as_simd_f32s(&self.shift[..channels]);
        let positions = output.chunks_exact_mut(channels);
        for (output, input) in positions.zip(input.chunks_exact(channels)) {
            let (inputs, last_input) = S::as_simd_f32s(input);
            let (outputs, last_output) = S::as_mut_simd_f32s(output);
            let vectors = inputs.iter().zip(means).zip(scales).zip(shifts);
            for (output, (((x, mean), scale), shift)) in outputs.iter_mut().zip(vectors) {
                *output = activated::<S, SILU>(simd, *x, *mean, *scale, *shift);
            }
            if !last_input.is_empty() {
                let last = activated::<S, SILU>(
                    simd,
                    simd.partial_load_f32s(last_input),
                    simd.partial_load_f32s(last_mean),
                    simd.partial_load_f32s(last_scale),
                    simd.partial_load_f32s(last_shift),
                );
                simd.partial_store_f32s(last_output, last);
            }
        }
    }
}

#[inline(always)]
fn activated<S: Simd, const SILU: bool>(
    simd: S,
    x: S::f32s,
    mean: S::f32s,
    scale: S::f32s,
    shift: S::f32s,
) -> S::f32s {
    let z = simd.mul_add_e_f32s(simd.sub_f32s(x, mean), scale, shift);
    if SILU {
        simd.mul_f32s(z, sigmoids(simd, z))
    } else {
        z
    }
}

/// Positions that one task maps.
const POSITIONS_PER_TASK: usize = 256;

/// The output, `[batch, positions, channels]` like `input`, and the statistics, `[batch, groups]`.
pub(crate) fn normalise(
    groups: &Groups,
    input: &[f32],
    positions: usize,
    gamma: &[f32],
    beta: &[f32],
) -> (Array, Vec<Statistics>) {
    struct Apply<'a> {
        map: &'a ChannelMap,
        input: &'a [f32],
        output: &'a mut [f32],
    }

    impl WithSimd for Apply<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.map.apply(simd, self.input, self.output);
        }
    }

    let statistics = statistics(groups, &[input], positions);
    let mut output = arrays::array(input.len());
    let image_len = positions * groups.channels;
    output
        .par_chunks_exact_mut(image_len)
        .zip(input.par_chunks_exact(image_len))
        .zip(statistics.par_chunks_exact(groups.groups))
        .for_each(|((output, input), statistics)| {
            let map = ChannelMap::new(groups, statistics, gamma, beta);
            let part_len = POSITIONS_PER_TASK * groups.channels;
            let inputs = input.par_chunks(part_len);
            let parts = output.par_chunks_mut(part_len).zip(inputs);
            parts.for_each(|(output, input)| {
                vectorized(Apply {
                    map: &map,
                    input,
                    output,
                });
            });
        });
    (output, statistics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_group_becomes_its_shift() {
        let groups = Groups {
            channels: 2,
            groups: 1,
            epsilon: 1e-6,
            activation: Activation::Identity,
        };
        let (output, _) = normalise(&groups, &[5.0; 6], 3, &[2.0, 3.0], &[0.25, -0.5]);
        assert_eq!(*output, [0.25, -0.5, 0.25, -0.5, 0.25, -0.5]);
    }
}
