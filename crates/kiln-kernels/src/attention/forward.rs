//! From queries, keys and values to the result.

use std::sync::Arc;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::heads::{Heads, QUERIES, Softmax, take};
use crate::arrays::{self, Array};
use crate::exponential::exp2;
use crate::instructions::vectorized;
use crate::product::{
    Gather, Outer, Panels, PanelsShape, add_outer_products, multiply_gathered, pack_columns,
};
use crate::scratch::Scratch;

/// The result, `[batch, tokens, inner]`, of `qkv`, `[batch, tokens, 3 * inner]`.
pub(super) fn attend(heads: &Heads, qkv: &[f32]) -> (Array, Softmax) {
    let inner = heads.inner();
    let row_starts = heads.row_starts();
    let batch = qkv.len() / (heads.tokens * heads.row());
    let mut output = arrays::array(batch * heads.tokens * inner);
    let mut softmax = arrays::array(batch * heads.softmax_len());
    let images = output
        .par_chunks_exact_mut(heads.tokens * inner)
        .zip(softmax.par_chunks_exact_mut(heads.softmax_len()))
        .zip(qkv.par_chunks_exact(heads.tokens * heads.row()));
    images.for_each(|((output, softmax), image)| {
        let blocks = output
            .par_chunks_mut(QUERIES * inner)
            .zip(softmax.par_chunks_mut(QUERIES * 2 * heads.heads));
        blocks.enumerate().for_each(|(block, (output, softmax))| {
            let needed = QUERIES * (heads.tokens + 2 * heads.channels + 2);
            let mut memory = Scratch::new(needed);
            vectorized(Forward {
                heads,
                image,
                row_starts: &row_starts,
                first: block * QUERIES,
                output,
                softmax,
                memory: &mut memory,
            });
        });
    });
    (output, Softmax(Arc::new(softmax)))
}

/// A block of queries, all heads.
struct Forward<'a> {
    heads: &'a Heads,
    image: &'a [f32],
    row_starts: &'a [usize],
    /// The first query.
    first: usize,
    /// `[queries, inner]`.
    output: &'a mut [f32],
    softmax: &'a mut [f32],
    memory: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Heads {
            tokens, channels, ..
        } = *self.heads;
        let inner = self.heads.inner();
        let queries = self.output.len() / inner;
        let block = Block::new::<S>(self.heads, self.first, queries);
        let columns = take(&mut self.memory, block.columns.len());
        let scores = take(&mut self.memory, tokens * block.width);
        let maxima = take(&mut self.memory, block.width);
        let inverses = take(&mut self.memory, block.width);
        let attended = take(&mut self.memory, queries * channels);
        let softmaxes = self.softmax.chunks_exact_mut(2 * queries);
        for (head, softmax) in softmaxes.enumerate() {
            let [_, _, value] = self.heads.parts(head);
            block.scores(simd, self.image, head, columns, scores);
            exponentials(simd, scores, maxima, inverses);
            softmax[..queries].copy_from_slice(&maxima[..queries]);
            softmax[queries..].copy_from_slice(&inverses[..queries]);
            attended.fill(0.0);
            let products = Outer {
                a: scores,
                a_starts: &block.starts,
                b: &self.image[value..],
                b_starts: self.row_starts,
            };
            add_outer_products(simd, products, attended, channels);
            let rows = attended.chunks_exact(channels).zip(inverses.iter());
            for ((attended, inverse), output) in rows.zip(self.output.chunks_exact_mut(inner)) {
                let output = &mut output[head * channels..][..channels];
                for (output, attended) in output.iter_mut().zip(attended) {
                    *output = attended * inverse;
                }
            }
        }
    }
}

/// Neighbouring queries of an image, and the matrix of tokens by these queries.
pub(super) struct Block<'a> {
    heads: &'a Heads,
    first: usize,
    queries: usize,
    /// Numbers in a row of the matrix: the queries, padded to whole vectors.
    pub(super) width: usize,
    /// Where the rows of the matrix begin.
    pub(super) starts: Vec<usize>,
    /// The shape of one head's queries, or of their gradients, as columns.
    pub(super) columns: PanelsShape,
}

impl<'a> Block<'a> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(heads: &'a Heads, first: usize, queries: usize) -> Self {
        let width = queries.next_multiple_of(S::F32_LANES);
        Self {
            heads,
            first,
            queries,
            width,
            starts: (0..heads.tokens).map(|token| token * width).collect(),
            columns: PanelsShape::new::<S>(heads.channels, width),
        }
    }

    /// `log2(e) s`, so that the softmax is of powers of two.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(
        &self,
        simd: S,
        image: &[f32],
        head: usize,
        columns: &mut [f32],
        scores: &mut [f32],
    ) {
        let [query, key, _] = self.heads.parts(head);
        let queries = (image, self.heads.row(), query);
        let factor = self.heads.scale() * std::f32::consts::LOG2_E;
        self.products(simd, (image, key), queries, factor, columns, scores);
    }

    /// `out[j, i] = factor a[j].b[i]` for all tokens `j` and the queries `i` of one head. `a` is part of an image of
    /// queries, keys and values, from the given number on; `b` has one row of the given length per token, and is read
    /// from the given number on.
    #[inline(always)]
    pub(super) fn products<S: Simd>(
        &self,
        simd: S,
        (a, a_start): (&[f32], usize),
        (b, b_row, b_start): (&[f32], usize, usize),
        factor: f32,
        columns: &mut [f32],
        out: &mut [f32],
    ) {
        let channels = self.heads.channels;
        let row = |query: usize| &b[(self.first + query) * b_row + b_start..][..channels];
        pack_columns(simd, self.columns, columns, self.queries, row, factor);
        multiply_gathered(
            simd,
            Gather {
                values: &a[a_start..],
                runs: &[0],
                len: channels,
            },
            Panels {
                shape: self.columns,
                values: columns,
            },
            self.heads.tokens,
            |token| token * self.heads.row(),
            out,
            |token| token * self.width,
            false,
        );
    }
}

/// Rows that are added side by side, which hides the latency of an addition.
const SIDE_BY_SIDE: usize = 4;

/// Replaces scores by `2^(score - maximum of its column)`; the maxima, and the inverses of the sums.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32], maxima: &mut [f32], inverses: &mut [f32]) {
    let (maxima, _) = S::as_mut_simd_f32s(maxima);
    let (inverses, _) = S::as_mut_simd_f32s(inverses);
    let (scores, _) = S::as_mut_simd_f32s(scores);
    let vectors = maxima.len();
    for column in 0..vectors {
        let mut partial = [simd.splat_f32s(f32::NEG_INFINITY); SIDE_BY_SIDE];
        for rows in scores.chunks(SIDE_BY_SIDE * vectors) {
            for (maximum, row) in partial.iter_mut().zip(rows.chunks_exact(vectors)) {
                *maximum = simd.max_f32s(*maximum, row[column]);
            }
        }
        let [a, b, c, d] = partial;
        let maximum = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));

        let mut partial = [simd.splat_f32s(0.0); SIDE_BY_SIDE];
        for rows in scores.chunks_mut(SIDE_BY_SIDE * vectors) {
            for (sum, row) in partial.iter_mut().zip(rows.chunks_exact_mut(vectors)) {
                row[column] = exp2(simd, simd.sub_f32s(row[column], maximum));
                *sum = simd.add_f32s(*sum, row[column]);
            }
        }
        let [a, b, c, d] = partial;
        let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        maxima[column] = maximum;
        inverses[column] = simd.div_f32s(simd.splat_f32s(1.0), sum);
    }
}
