//! `out[k, n] += sum over r of a[r, k] b[r, n]`: a batch's contribution to the gradient of weights.

use pulp::{Simd, WithSimd};

use super::{for_tile, tile_height, widest_tile};

/// Rows of two matrices: row `r` of `a` is `a[a_starts[r]..]`, row `r` of `b` is `b[b_starts[r]..]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) a_starts: &'a [usize],
    pub(crate) b: &'a [f32],
    pub(crate) b_starts: &'a [usize],
}

/// Rows whose part of `b` stays in the nearest cache while all of `out` is processed.
const ROWS_AT_ONCE: usize = 128;

/// Adds the products to `out`, whose rows have `columns` numbers; as many rows as it has.
#[inline(always)]
pub(crate) fn add_outer_products<S: Simd>(simd: S, rows: Outer, out: &mut [f32], columns: usize) {
    let depth = out.len() / columns;
    let width = widest_tile::<S>() * S::F32_LANES;
    let blocks = rows.a_starts.chunks(ROWS_AT_ONCE);
    for (a_starts, b_starts) in blocks.zip(rows.b_starts.chunks(ROWS_AT_ONCE)) {
        for first in (0..columns).step_by(width) {
            let used = width.min(columns - first);
            let vectors = used.div_ceil(S::F32_LANES).next_power_of_two();
            let mut k = 0;
            while k < depth {
                let height = tile_height::<S>(vectors, depth - k);
                macro_rules! tile {
                    ($height:literal, $vectors:literal,) => {
                        simd.vectorize(Tile::<$height, $vectors> {
                            rows: Outer {
                                a_starts,
                                b_starts,
                                ..rows
                            },
                            k,
                            first,
                            used,
                            columns,
                            out,
                        })
                    };
                }
                for_tile!(height, vectors, tile!());
                k += height;
            }
        }
    }
}

/// `HEIGHT` rows of `out` from row `k` on, `used` columns from column `first` on.
struct Tile<'a, const HEIGHT: usize, const VECTORS: usize> {
    rows: Outer<'a>,
    k: usize,
    first: usize,
    used: usize,
    columns: usize,
    out: &'a mut [f32],
}

impl<const HEIGHT: usize, const VECTORS: usize> WithSimd for Tile<'_, HEIGHT, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.used == VECTORS * S::F32_LANES {
            self.run::<S, false>(simd);
        } else {
            self.run::<S, true>(simd);
        }
    }
}

impl<const HEIGHT: usize, const VECTORS: usize> Tile<'_, HEIGHT, VECTORS> {
    /// `RAGGED`: the last vectors are not full.
    #[inline(always)]
    fn run<S: Simd, const RAGGED: bool>(self, simd: S) {
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; HEIGHT];
        let starts = self.rows.a_starts.iter().zip(self.rows.b_starts);
        for (a_start, b_start) in starts {
            let a: &[f32] = &self.rows.a[a_start + self.k..][..HEIGHT];
            let b = &self.rows.b[b_start + self.first..][..self.used];
            let b: [S::f32s; VECTORS] = if RAGGED {
                std::array::from_fn(|vector| {
                    let from = (vector * S::F32_LANES).min(b.len());
                    let to = (from + S::F32_LANES).min(b.len());
                    simd.partial_load_f32s(&b[from..to])
                })
            } else {
                let (b, _) = S::as_simd_f32s(b);
                let b = &b[..VECTORS];
                std::array::from_fn(|vector| b[vector])
            };
            for (sums, a) in sums.iter_mut().zip(a) {
                let a = simd.splat_f32s(*a);
                for (sum, b) in sums.iter_mut().zip(&b) {
                    *sum = simd.mul_add_e_f32s(a, *b, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let from = (self.k + row) * self.columns + self.first;
            let out = &mut self.out[from..][..self.used];
            let (whole, rest) = S::as_mut_simd_f32s(out);
            let mut sums = sums.into_iter();
            for (out, sum) in whole.iter_mut().zip(&mut sums) {
                *out = simd.add_f32s(*out, sum);
            }
            if RAGGED
                && !rest.is_empty()
                && let Some(sum) = sums.next()
            {
                let before = simd.partial_load_f32s(rest);
                simd.partial_store_f32s(rest, simd.add_f32s(before, sum));
            }
        }
    }
}
