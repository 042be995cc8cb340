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
    let images = input.len() / image_len;
    // [batch, channels], summed over the batch in order afterwards.
    let mut gammas = vec![0.0; images * channels];
    let mut betas = vec![0.0; images * channels];
    gradient
        .par_chunks_exact_mut(image_len)
        .enumerate()
        .zip(statistics.par_chunks_exact(groups.groups))
        .zip(maps)
        .zip(gammas.par_chunks_exact_mut(channels))
        .zip(betas.par_chunks_exact_mut(channels))
        .for_each(
            |(((((image, gradient), statistics), map), gammas), betas)| {
                vectorized(Image {
                    groups,
                    map,
                    statistics,
                    gamma,
                    input: input.part(image * image_len..(image + 1) * image_len),
                    gradient,
                    gammas,
                    betas,
                });
            },
        );
    Gradients {
        gamma: sum_of_rows(&gammas, channels),
        beta: sum_of_rows(&betas, channels),
    }
}

struct Image<'a> {
    groups: &'a Groups,
    map: &'a ChannelMap,
    statistics: &'a [Statistics],
    gamma: &'a [f32],
    input: Values<'a>,
    gradient: &'a mut [f32],
    /// This image's part of the gradient of `gamma`: `sum(dz xhat)`.
    gammas: &'a mut [f32],
    /// And of `beta`: `sum(dz)`.
    betas: &'a mut [f32],
}

impl WithSimd for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.groups.activation {
            Activation::Identity => self.back_to_affine::<S, false>(simd),
            Activation::Silu => self.back_to_affine::<S, true>(simd),
        }
        self.back_to_input();
    }
}

/// Positions that are summed before they are added to the total, so that long sums lose little precision.
const POSITIONS_AT_ONCE: usize = 32;

impl Image<'_> {
    /// Replaces the gradient by `dz`, and computes the gradients of scale and shift from it.
    #[inline(always)]
    fn back_to_affine<S: Simd, const SILU: bool>(&mut self, simd: S) {
        let channels = self.groups.channels;
        let ChannelMap {
            mean, scale, shift, ..
        } = self.map;
        let mut part = vec![0.0; 2 * channels];
        let (along_ones, along_input) = part.split_at_mut(channels);
        let block_len = POSITIONS_AT_ONCE * channels;
        let mut memory = Scratch::new(block_len);
        for (block, gradient) in self.gradient.chunks_mut(block_len).enumerate() {
            let start = block * block_len;
            let input = (self.input).read(start..start + gradient.len(), &mut memory);
            along_ones.fill(0.0);
            along_input.fill(0.0);
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
            for (total, part) in self.betas.iter_mut().zip(&*along_ones) {
                *total += part;
            }
            for (total, part) in self.gammas.iter_mut().zip(&*along_input) {
                *total += part;
            }
        }
        let per_group = self.groups.channels_per_group();
        let groups = self.gammas.chunks_exact_mut(per_group);
        for (gammas, statistics) in groups.zip(self.statistics) {
            for gamma in gammas {
                *gamma *= statistics.inverse_deviation;
            }
        }
    }

    /// `dx = scale dz - along_ones - (x - mean) along_input` in place of `dz`.
    #[inline(always)]
    fn back_to_input(&mut self) {
        let channels = self.groups.channels;
        let per_group = self.groups.channels_per_group();
        let count = (self.gradient.len() / self.groups.groups) as f32;
        let mut factors = vec![0.0; 2 * channels];
        let (along_ones, along_input) = factors.split_at_mut(channels);
        for (group, statistics) in self.statistics.iter().enumerate() {
            let range = group * per_group..(group + 1) * per_group;
            let inverse = statistics.inverse_deviation;
            let along = |sums: &[f32]| {
                let terms = self.gamma[range.clone()].iter().zip(&sums[range.clone()]);
                terms.map(|(gamma, sum)| gamma * sum / count).sum::<f32>()
            };
            along_ones[range.clone()].fill(along(self.betas) * inverse);
            along_input[range.clone()].fill(along(self.gammas) * inverse * inverse);
        }
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
