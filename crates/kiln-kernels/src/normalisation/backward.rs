//! The gradients of a group normalisation.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Activation, ChannelMap, Groups, Statistics};
use crate::exponential::sigmoids;
use crate::instructions::vectorized;
use crate::reduction::sum_of_rows;
use crate::scratch::Scratch;
use crate::values::Values;

/// The gradients of the scale and shift.
pub(crate) struct Gradients {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// Turns `gradient` from the output's gradient `[batch, positions, channels]` into the input's, and returns the
/// gradients of scale and shift.
///
/// With `dz` the gradient at `z` and sums over a group of `N` numbers:
///
/// ```text
/// dx = (gamma dz - (sum(gamma dz) + xhat sum(gamma dz xhat)) / N) / sqrt(variance + epsilon)
/// ```
pub(crate) fn gradients(
    groups: &Groups,
    input: Values,
    positions: usize,
    gamma: &[f32],
    maps: &[ChannelMap],
    statistics: &[Statistics],
    gradient: &mut [f32],
) -> Gradients {
    let channels = groups.channels;
    let image_len = positions * channels;
    let part_len = POSITIONS_PER_TASK * channels;
    let parts = positions.div_ceil(POSITIONS_PER_TASK);
    // [batch, 2, channels]: each image's gradients of shift and scale.
    let mut sums = vec![0.0; input.len() / image_len * 2 * channels];
    gradient
        .par_chunks_exact_mut(image_len)
        .enumerate()
        .zip(statistics.par_chunks_exact(groups.groups))
        .zip(maps)
        .zip(sums.par_chunks_exact_mut(2 * channels))
        .for_each(|((((image, gradient), statistics), map), sums)| {
            let input_of = |part: usize, len: usize| {
                let start = image * image_len + part * part_len;
                input.part(start..start + len)
            };
            let mut of_parts = vec![0.0; parts * 2 * channels];
            gradient
                .par_chunks_mut(part_len)
                .enumerate()
                .zip(of_parts.par_chunks_exact_mut(2 * channels))
                .for_each(|((part, gradient), sums)| {
                    vectorized(ToAffine {
                        map,
                        input: input_of(part, gradient.len()),
                        gradient,
                        sums,
                    });
                });
            sums.copy_from_slice(&sum_of_rows(&of_parts, 2 * channels));
            let factors = Factors::new(groups, positions, gamma, statistics, sums);
            gradient
                .par_chunks_mut(part_len)
                .enumerate()
                .for_each(|(part, gradient)| {
                    vectorized(ToInput {
                        map,
                        factors: &factors,
                        input: input_of(part, gradient.len()),
                        gradient,
                    });
                });
        });
    let mut beta = sum_of_rows(&sums, 2 * channels);
    let gamma = beta.split_off(channels);
    Gradients { gamma, beta }
}

/// Positions that are summed before they are added to the total, so that long sums lose little precision.
const POSITIONS_AT_ONCE: usize = 32;

/// Positions of a task, which are the same on any number of threads.
const POSITIONS_PER_TASK: usize = 256;

/// Replaces the gradient by `dz`, and sums `dz` and `dz (x - mean)` of each channel.
struct ToAffine<'a> {
    map: &'a ChannelMap,
    input: Values<'a>,
    gradient: &'a mut [f32],
    /// `[2, channels]`, zeros before.
    sums: &'a mut [f32],
}

impl WithSimd for ToAffine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.map.activation {
            Activation::Identity => self.run::<S, false>(simd),
            Activation::Silu => self.run::<S, true>(simd),
        }
    }
}

impl ToAffine<'_> {
    #[inline(always)]
    fn run<S: Simd, const SILU: bool>(self, simd: S) {
        let ChannelMap {
            mean, scale, shift, ..
        } = self.map;
        let channels = self.sums.len() / 2;
        let mut part = vec![0.0; 2 * channels];
        let block_len = POSITIONS_AT_ONCE * channels;
        let mut memory = Scratch::new(block_len);
        for (block, gradient) in self.gradient.chunks_mut(block_len).enumerate() {
            let start = block * block_len;
            let input = (self.input).read(start..start + gradient.len(), &mut memory);
            part.fill(0.0);
            let (along_ones, along_input) = part.split_at_mut(channels);
            let positions = gradient.chunks_exact_mut(channels);
            for (gradient, input) in positions.zip(input.chunks_exact(channels)) {
                for channel in (0..channels).step_by(S::F32_LANES) {
                    let range = channel..(channel + S::F32_LANES).min(channels);
                    let centred = simd.sub_f32s(
                        load(simd, &input[range.clone()]),
                        load(simd, &mean[range.clone()]),
                    );
                    let mut dz = load(simd, &gradient[range.clone()]);
                    if SILU {
                        let scale = load(simd, &scale[range.clone()]);
                        let shift = load(simd, &shift[range.clone()]);
                        let z = simd.mul_add_e_f32s(centred, scale, shift);
                        dz = simd.mul_f32s(dz, silu_slope(simd, z));
                        store(simd, &mut gradient[range.clone()], dz);
                    }
                    let ones = &mut along_ones[range.clone()];
                    let sum = simd.add_f32s(load(simd, ones), dz);
                    store(simd, ones, sum);
                    let input = &mut along_input[range];
                    let sum = simd.mul_add_e_f32s(dz, centred, load(simd, input));
                    store(simd, input, sum);
                }
            }
            for (total, part) in self.sums.iter_mut().zip(&part) {
                *total += part;
            }
        }
    }
}

/// What the gradient of an image takes from `dz`, `[channels]` each.
struct Factors {
    along_ones: Vec<f32>,
    along_input: Vec<f32>,
}

impl Factors {
    /// Turns an image's sums of `dz (x - mean)`, the second half of `sums`, into the gradient of `gamma`.
    fn new(
        groups: &Groups,
        positions: usize,
        gamma: &[f32],
        statistics: &[Statistics],
        sums: &mut [f32],
    ) -> Self {
        let per_group = groups.channels_per_group();
        let count = (positions * per_group) as f32;
        let (betas, gammas) = sums.split_at_mut(groups.channels);
        let mut along_ones = Vec::with_capacity(groups.channels);
        let mut along_input = Vec::with_capacity(groups.channels);
        let sums = betas.chunks(per_group).zip(gammas.chunks_mut(per_group));
        for (((betas, gammas), gamma), statistics) in
            sums.zip(gamma.chunks(per_group)).zip(statistics)
        {
            let inverse = statistics.inverse_deviation;
            for of_gamma in &mut *gammas {
                *of_gamma *= inverse;
            }
            let along = |sums: &[f32]| {
                let terms = gamma.iter().zip(sums);
                terms.map(|(gamma, sum)| gamma * sum / count).sum::<f32>()
            };
            along_ones.extend(gamma.iter().map(|_| along(betas) * inverse));
            along_input.extend(gamma.iter().map(|_| along(gammas) * inverse * inverse));
        }
        Self {
            along_ones,
            along_input,
        }
    }
}

/// `dx = scale dz - along_ones - (x - mean) along_input` in place of `dz`.
struct ToInput<'a> {
    map: &'a ChannelMap,
    factors: &'a Factors,
    input: Values<'a>,
    gradient: &'a mut [f32],
}

impl WithSimd for ToInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Factors {
            along_ones,
            along_input,
        } = self.factors;
        let channels = along_ones.len();
        let along_input = &along_input[..channels];
        let (mean, scale) = (&self.map.mean[..channels], &self.map.scale[..channels]);
        let block_len = POSITIONS_AT_ONCE * channels;
        let mut memory = Scratch::new(block_len);
        for (block, gradient) in self.gradient.chunks_mut(block_len).enumerate() {
            let start = block * block_len;
            let input = (self.input).read(start..start + gradient.len(), &mut memory);
            let positions = gradient.chunks_exact_mut(channels);
            for (gradient, input) in positions.zip(input.chunks_exact(channels)) {
                for channel in 0..channels {
                    let centred = input[channel] - mean[channel];
                    gradient[channel] = gradient[channel] * scale[channel]
                        - along_ones[channel]
                        - centred * along_input[channel];
                }
            }
        }
    }
}

/// The derivative of `z sigmoid(z)`: `s (1 + z (1 - s))`.
#[inline(always)]
fn silu_slope<S: Simd>(simd: S, z: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let s = sigmoids(simd, z);
    let inner = simd.mul_add_e_f32s(z, simd.sub_f32s(one, s), one);
    simd.mul_f32s(s, inner)
}

/// A vector whose first numbers come from a slice that may be shorter.
#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0.first() {
        Some(whole) => *whole,
        None => simd.partial_load_f32s(values),
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, values: &mut [f32], vector: S::f32s) {
    if values.len() == S::F32_LANES {
        S::as_mut_simd_f32s(values).0[0] = vector;
    } else {
        simd.partial_store_f32s(values, vector);
    }
}
