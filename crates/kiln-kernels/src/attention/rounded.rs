//! The result of queries, keys and values whose products have factors of bf16 numbers, for drawing.
//!
//! Here keys run along vectors, and not queries as in [`forward`](super::forward): the probabilities of a query then lie side
//! by side, as the left factor of the second product needs them, and the values row by row, as the right one does.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::heads::{Heads, take};
use crate::arrays::{self, Array};
use crate::exponential::exp2;
use crate::instructions::vectorized;
use crate::product::{Bf16Panels, SUMS, SideBySide, TILE, multiply_panel_bf16, round_all};
use crate::scratch::Scratch;

/// With 16 tokens (the digits' U-Net), attention is 2% of a call.
const FEWEST_TOKENS: usize = 64;

/// Whether rounding pays for an attention of this size.
pub(super) fn pays(heads: &Heads) -> bool {
    heads.tokens >= FEWEST_TOKENS
}

/// The result, `[batch, tokens, inner]`, of `qkv`, `[batch, tokens, 3 * inner]`.
pub(super) fn attend(heads: &Heads, qkv: &[f32]) -> Array {
    let inner = heads.inner();
    let batch = qkv.len() / (heads.tokens * heads.row());
    let mut output = arrays::array(batch * heads.tokens * inner);
    let images = output
        .par_chunks_exact_mut(heads.tokens * inner)
        .zip(qkv.par_chunks_exact(heads.tokens * heads.row()));
    images.for_each(|(output, image)| {
        let pack = |head| vectorized(Pack { heads, image, head });
        let packed: Vec<KeysAndValues> = (0..heads.heads).into_par_iter().map(pack).collect();
        let blocks = output.par_chunks_mut(TILE * inner).enumerate();
        blocks.for_each(|(block, output)| {
            vectorized(Forward {
                heads,
                image,
                packed: &packed,
                first: block * TILE,
                output,
            });
        });
    });
    output
}

/// Of one head of an image.
struct KeysAndValues {
    /// `[channels, tokens]`
    keys: Bf16Panels,
    /// `[tokens, channels]`
    values: Bf16Panels,
}

struct Pack<'a> {
    heads: &'a Heads,
    image: &'a [f32],
    head: usize,
}

impl WithSimd for Pack<'_> {
    type Output = KeysAndValues;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> KeysAndValues {
        let Heads {
            tokens, channels, ..
        } = *self.heads;
        let [_, key, value] = self.heads.parts(self.head);
        let mut columns = Scratch::new(channels * tokens);
        transpose(&self.image[key..], self.heads.row(), tokens, &mut columns);
        let row = |token: usize| &self.image[token * self.heads.row() + value..];
        KeysAndValues {
            keys: Bf16Panels::new(channels, tokens, |channel, range| {
                &columns[channel * tokens..][range]
            }),
            values: Bf16Panels::new(tokens, channels, |token, range| &row(token)[range]),
        }
    }
}

/// `columns[c, r] = rows[r, c]`, where `count` rows are `step` numbers apart.
#[inline(always)]
fn transpose(rows: &[f32], step: usize, count: usize, columns: &mut [f32]) {
    // Squares of whole cache lines, in rows and in columns.
    const SIDE: usize = 16;
    let channels = columns.len() / count;
    for first_row in (0..count).step_by(SIDE) {
        let height = SIDE.min(count - first_row);
        for first in (0..channels).step_by(SIDE) {
            for column in first..(first + SIDE).min(channels) {
                let line = &mut columns[column * count + first_row..][..height];
                for (row, number) in line.iter_mut().enumerate() {
                    *number = rows[(first_row + row) * step + column];
                }
            }
        }
    }
}

/// A tile of queries, all heads.
struct Forward<'a> {
    heads: &'a Heads,
    image: &'a [f32],
    packed: &'a [KeysAndValues],
    /// The first query.
    first: usize,
    /// `[queries, inner]`.
    output: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Heads {
            tokens, channels, ..
        } = *self.heads;
        let inner = self.heads.inner();
        let rows = self.output.len() / inner;
        let [of_query, of_probabilities] = [channels, tokens].map(|it| it.next_multiple_of(TILE));
        // Two numbers of 16 bits take the place of one of 32.
        let mut memory = Scratch::new(
            TILE * (of_query + of_probabilities) / 2
                + TILE * (of_probabilities + of_query)
                + channels,
        );
        let mut memory = &mut *memory;
        let queries: &mut [u16] = bytemuck::cast_slice_mut(take(&mut memory, TILE * of_query / 2));
        let probabilities: &mut [u16] =
            bytemuck::cast_slice_mut(take(&mut memory, TILE * of_probabilities / 2));
        // A tile of sums after the other.
        let scores = take(&mut memory, TILE * of_probabilities);
        let attended = take(&mut memory, TILE * of_query);
        let scaled = take(&mut memory, channels);

        // So that the softmax is of powers of two.
        let factor = self.heads.scale() * std::f32::consts::LOG2_E;
        let images = self.image[self.first * self.heads.row()..].chunks_exact(self.heads.row());
        for (head, KeysAndValues { keys, values }) in self.packed.iter().enumerate() {
            let [query, _, _] = self.heads.parts(head);
            for (row, queries) in images.clone().zip(queries.chunks_exact_mut(of_query)) {
                let (used, filling) = queries.split_at_mut(channels);
                for (scaled, number) in scaled.iter_mut().zip(&row[query..]) {
                    *scaled = factor * number;
                }
                round_all(scaled, used);
                filling.fill(0);
            }
            multiply(queries, of_query, rows, keys, scores);
            // There are no keys in the rest of the last tile.
            let last = scores.len() - SUMS;
            for row in scores[last..].chunks_exact_mut(TILE) {
                row[tokens - (of_probabilities - TILE)..].fill(f32::NEG_INFINITY);
            }
            let inverses = softmax(simd, scores, probabilities, of_probabilities);
            multiply(probabilities, of_probabilities, rows, values, attended);
            let rows = self.output.chunks_exact_mut(inner).zip(inverses);
            for (row, (output, inverse)) in rows.enumerate() {
                let output = output[head * channels..][..channels].chunks_mut(TILE);
                for (output, sums) in output.zip(attended.chunks_exact(SUMS)) {
                    for (output, sum) in output.iter_mut().zip(&sums[row * TILE..]) {
                        *output = sum * inverse;
                    }
                }
            }
        }
    }
}

/// The product of a tile of rows with all columns, a tile of them after the other.
#[inline(always)]
fn multiply(left: &[u16], stride: usize, rows: usize, right: &Bf16Panels, out: &mut [f32]) {
    let left = SideBySide {
        values: left,
        stride,
        rows,
    };
    for (panel, sums) in out.chunks_exact_mut(SUMS).enumerate() {
        multiply_panel_bf16(left, right, panel, sums, SUMS);
    }
}

/// From tiles of scores, `[.., queries, tokens]`, to `2^(score - largest of the query)`, `[queries, tokens]`, and
/// the inverse of each query's sum.
#[inline(always)]
fn softmax<S: Simd>(
    simd: S,
    scores: &mut [f32],
    probabilities: &mut [u16],
    stride: usize,
) -> [f32; TILE] {
    let mut tile = [f32::NEG_INFINITY; SUMS];
    for scores in scores.chunks_exact(SUMS) {
        let (largest, _) = S::as_mut_simd_f32s(&mut tile);
        let (scores, _) = S::as_simd_f32s(scores);
        for (largest, score) in largest.iter_mut().zip(scores) {
            *largest = simd.max_f32s(*largest, *score);
        }
    }
    let mut largest = [0.0; TILE];
    for (largest, row) in largest.iter_mut().zip(tile.chunks_exact(TILE)) {
        *largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    tile.fill(0.0);
    for (index, scores) in scores.chunks_exact_mut(SUMS).enumerate() {
        let rows = scores
            .chunks_exact_mut(TILE)
            .zip(tile.chunks_exact_mut(TILE));
        for (row, (scores, sums)) in rows.enumerate() {
            let largest = simd.splat_f32s(largest[row]);
            let (vectors, _) = S::as_mut_simd_f32s(scores);
            let (sums, _) = S::as_mut_simd_f32s(sums);
            for (score, sum) in vectors.iter_mut().zip(sums) {
                *score = exp2(simd, simd.sub_f32s(*score, largest));
                *sum = simd.add_f32s(*sum, *score);
            }
            round_all(
                scores,
                &mut probabilities[row * stride + index * TILE..][..TILE],
            );
        }
    }
    let mut inverses = [0.0; TILE];
    for (inverse, row) in inverses.iter_mut().zip(tile.chunks_exact(TILE)) {
        *inverse = 1.0 / row.iter().sum::<f32>();
    }
    inverses
}
