//! From the gradient of the result back to the gradients of queries, keys and values.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::forward::Block;
use super::heads::{Heads, QUERIES, Softmax, take};
use crate::arrays::{self, Array};
use crate::exponential::exp2;
use crate::instructions::vectorized;
use crate::product::{
    Gather, Outer, Panels, PanelsShape, add_outer_products, multiply_gathered, pack_rows,
};
use crate::scratch::Scratch;

/// The gradient of `qkv`, in its shape, from the gradient of the result.
pub(super) fn gradient(
    heads: &Heads,
    qkv: &[f32],
    softmax: &Softmax,
    output_gradient: &[f32],
) -> Array {
    let row_starts = heads.row_starts();
    let image_len = heads.tokens * heads.row();
    let images = qkv.len() / image_len;
    // Threads share the images, or their heads if there are fewer images than threads.
    let shares_heads = images < rayon::current_num_threads() && heads.heads > 1;
    let mut gradient = arrays::zeros(qkv.len());
    let images = gradient
        .par_chunks_exact_mut(image_len)
        .zip(qkv.par_chunks_exact(image_len))
        .zip(softmax.0.par_chunks_exact(heads.softmax_len()))
        .zip(output_gradient.par_chunks_exact(heads.tokens * heads.inner()));
    images.for_each(|(((gradient, image), softmax), output_gradient)| {
        let of_heads = |range: Range<usize>, gradient: &mut [f32]| {
            // Rows of queries are padded to whole vectors, by at most 63 numbers.
            let channels = heads.channels.next_multiple_of(64);
            let needed = QUERIES * (2 * heads.tokens + 3 * channels + 2);
            let mut memory = Scratch::new(needed);
            vectorized(Backward {
                heads,
                range,
                image,
                row_starts: &row_starts,
                softmax,
                output_gradient,
                gradient,
                memory: &mut memory,
            });
        };
        if shares_heads {
            let one = |head: usize| {
                let mut gradient = arrays::zeros(image_len / heads.heads);
                of_heads(head..head + 1, &mut gradient);
                gradient
            };
            let each: Vec<Array> = (0..heads.heads).into_par_iter().map(one).collect();
            join_heads(heads, &each, gradient);
        } else {
            of_heads(0..heads.heads, gradient);
        }
    });
    gradient
}

/// Puts the gradients of single heads, `[tokens, 3 * channels]`, in their places of the image's.
fn join_heads(heads: &Heads, each: &[Array], gradient: &mut [f32]) {
    let channels = heads.channels;
    let rows = gradient.par_chunks_exact_mut(heads.row()).enumerate();
    rows.with_min_len(QUERIES).for_each(|(token, row)| {
        for (head, of_head) in each.iter().enumerate() {
            let parts = of_head[token * 3 * channels..].chunks_exact(channels);
            for (start, part) in heads.parts(head).into_iter().zip(parts) {
                row[start..start + channels].copy_from_slice(part);
            }
        }
    });
}

/// Some heads of an image.
struct Backward<'a> {
    heads: &'a Heads,
    range: Range<usize>,
    image: &'a [f32],
    row_starts: &'a [usize],
    softmax: &'a [f32],
    output_gradient: &'a [f32],
    /// Of these heads alone, `[tokens, 3 * heads in range * channels]`.
    gradient: &'a mut [f32],
    memory: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let tokens = self.heads.tokens;
        let written = Heads {
            heads: self.range.len(),
            ..*self.heads
        };
        let softmaxes = self.softmax.chunks(QUERIES * 2 * self.heads.heads);
        for (index, softmaxes) in softmaxes.enumerate() {
            let first = index * QUERIES;
            let queries = QUERIES.min(tokens - first);
            let block = Block::new::<S>(self.heads, first, queries);
            for (place, head) in self.range.clone().enumerate() {
                HeadBackward {
                    heads: self.heads,
                    head,
                    image: self.image,
                    row_starts: self.row_starts,
                    block: &block,
                    first,
                    queries,
                    softmax: &softmaxes[2 * queries * head..][..2 * queries],
                    output_gradient: self.output_gradient,
                    row: written.row(),
                    starts: written.parts(place),
                }
                .run(simd, self.gradient, self.memory);
            }
        }
    }
}

/// A block of queries, one head.
struct HeadBackward<'a> {
    heads: &'a Heads,
    head: usize,
    image: &'a [f32],
    row_starts: &'a [usize],
    block: &'a Block<'a>,
    first: usize,
    queries: usize,
    softmax: &'a [f32],
    output_gradient: &'a [f32],
    /// Numbers in a row of the gradient.
    row: usize,
    /// Where the gradients of queries, keys and values begin in such a row.
    starts: [usize; 3],
}

impl HeadBackward<'_> {
    /// Writes the gradient of the block's queries, and adds to the gradients of all keys and values, or writes them if
    /// the block is the first.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, gradient: &mut [f32], mut memory: &mut [f32]) {
        let Self {
            heads,
            block,
            first,
            queries,
            ..
        } = self;
        let (tokens, channels) = (heads.tokens, heads.channels);
        let [query, key, value] = heads.parts(self.head);
        let [to_query, to_key, to_value] = self.starts;
        let inner = heads.inner();
        let columns = take(&mut memory, block.columns.len());
        let probabilities = take(&mut memory, tokens * block.width);
        let changes = take(&mut memory, tokens * block.width);
        let maxima = take(&mut memory, block.width);
        let inverses = take(&mut memory, block.width);
        maxima.fill(0.0);
        inverses.fill(0.0);
        maxima[..queries].copy_from_slice(&self.softmax[..queries]);
        inverses[..queries].copy_from_slice(&self.softmax[queries..]);

        block.scores(simd, self.image, self.head, columns, probabilities);
        let output_gradient = (self.output_gradient, inner, self.head * channels);
        let values = (self.image, value);
        block.products(simd, values, output_gradient, 1.0, columns, changes);
        changes_of_scores(
            simd,
            probabilities,
            changes,
            maxima,
            inverses,
            heads.scale(),
        );

        let shape = PanelsShape::new::<S>(queries, channels);
        let packed = take(&mut memory, shape.len());
        // Keys, and then values: out[j] (+)= sum over i of a[j, i] b[i].
        let rows_of_queries = (self.image, heads.row(), query);
        for (a, (b, b_row, b_start), out_start) in [
            (&*changes, rows_of_queries, to_key),
            (&*probabilities, output_gradient, to_value),
        ] {
            pack_rows(simd, shape, packed, |query| {
                &b[(first + query) * b_row + b_start..][..channels]
            });
            multiply_gathered(
                simd,
                Gather {
                    values: a,
                    runs: &[0],
                    len: queries,
                },
                Panels {
                    shape,
                    values: packed,
                },
                tokens,
                |token| token * block.width,
                gradient,
                |token| token * self.row + out_start,
                first > 0,
            );
        }

        let of_queries = take(&mut memory, queries * channels);
        of_queries.fill(0.0);
        let products = Outer {
            a: changes,
            a_starts: &block.starts,
            b: &self.image[key..],
            b_starts: self.row_starts,
        };
        add_outer_products(simd, products, of_queries, channels);
        let rows = gradient.chunks_exact_mut(self.row).skip(first);
        for (gradient, of_query) in rows.zip(of_queries.chunks_exact(channels)) {
            gradient[to_query..][..channels].copy_from_slice(of_query);
        }
    }
}

/// Replaces `log2(e) s` by `p`, and `dp` by `scale ds`.
#[inline(always)]
fn changes_of_scores<S: Simd>(
    simd: S,
    scores: &mut [f32],
    changes: &mut [f32],
    maxima: &[f32],
    inverses: &[f32],
    scale: f32,
) {
    let (maxima, _) = S::as_simd_f32s(maxima);
    let (inverses, _) = S::as_simd_f32s(inverses);
    let (scores, _) = S::as_mut_simd_f32s(scores);
    let (changes, _) = S::as_mut_simd_f32s(changes);
    let scale = simd.splat_f32s(scale);
    let vectors = maxima.len();
    for (column, (maximum, inverse)) in maxima.iter().zip(inverses).enumerate() {
        let mut mean = simd.splat_f32s(0.0);
        let rows = scores.chunks_exact_mut(vectors);
        for (score, change) in rows.zip(changes.chunks_exact(vectors)) {
            let power = exp2(simd, simd.sub_f32s(score[column], *maximum));
            let probability = simd.mul_f32s(power, *inverse);
            mean = simd.mul_add_e_f32s(probability, change[column], mean);
            score[column] = probability;
        }
        let rows = scores.chunks_exact(vectors);
        for (probability, change) in rows.zip(changes.chunks_exact_mut(vectors)) {
            let difference = simd.sub_f32s(change[column], mean);
            let scaled = simd.mul_f32s(probability[column], scale);
            change[column] = simd.mul_f32s(scaled, difference);
        }
    }
}
