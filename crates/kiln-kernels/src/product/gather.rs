//! `out[r, n] (+)= sum over k of a[r, k] b[k, n]`, rows of `a` gathered from an image.

use pulp::{Simd, WithSimd};

use super::{Panels, for_tile, tile_height};

/// The rows of `a`: row `r` is `values[start(r) + run ..][..len]` for every run, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gather<'a, T = f32> {
    pub(crate) values: &'a [T],
    /// Where the stretches of a row begin, relative to its start.
    pub(crate) runs: &'a [usize],
    /// Numbers in a stretch.
    pub(crate) len: usize,
}

/// Rows of a panel that stay in the nearest cache while all rows of `a` are processed.
const DEPTH_AT_ONCE: usize = 128;

/// The product of `rows` gathered rows, of which row `r` starts at `source(r)`, and `b`: row `r` is written to
/// `out[destination(r)..]`, or added to its content.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices, a third to write, and where its rows are read and written"
)]
pub(crate) fn multiply_gathered<S: Simd>(
    simd: S,
    a: Gather,
    b: Panels,
    rows: usize,
    source: impl Fn(usize) -> usize,
    out: &mut [f32],
    destination: impl Fn(usize) -> usize,
    accumulate: bool,
) {
    debug_assert_eq!(a.runs.len() * a.len, b.shape.depth);
    // Whole short stretches, or equal parts of long ones.
    let runs_at_once = (DEPTH_AT_ONCE / a.len).max(1);
    let len_at_once = a.len.div_ceil(a.len.div_ceil(DEPTH_AT_ONCE));
    for panel in b.shape.panels() {
        let first_column = panel.columns.start;
        let width = panel.range.len() / b.shape.depth;
        let values = &b.values[panel.range.clone()];
        for (group, runs) in a.runs.chunks(runs_at_once).enumerate() {
            for first in (0..a.len).step_by(len_at_once) {
                let len = len_at_once.min(a.len - first);
                let depth = group * runs_at_once * a.len + first;
                let part = &values[depth * width..][..runs.len() * len * width];
                let accumulate = accumulate || depth > 0;
                let mut row = 0;
                while row < rows {
                    let height = tile_height::<S>(panel.vectors, rows - row);
                    macro_rules! tile {
                        ($height:literal, $vectors:literal,) => {
                            simd.vectorize(Tile::<$height, $vectors> {
                                a: Gather { runs, len, ..a },
                                starts: std::array::from_fn(|r| source(row + r) + first),
                                panel: part,
                                out,
                                destinations: std::array::from_fn(|r| {
                                    destination(row + r) + first_column
                                }),
                                columns: panel.columns.len(),
                                accumulate,
                            })
                        };
                    }
                    for_tile!(height, panel.vectors, tile!());
                    row += height;
                }
            }
        }
    }
}

/// `HEIGHT` rows of some rows of one panel.
struct Tile<'a, const HEIGHT: usize, const VECTORS: usize> {
    a: Gather<'a>,
    starts: [usize; HEIGHT],
    panel: &'a [f32],
    out: &'a mut [f32],
    destinations: [usize; HEIGHT],
    columns: usize,
    accumulate: bool,
}

impl<const HEIGHT: usize, const VECTORS: usize> WithSimd for Tile<'_, HEIGHT, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let len = self.a.len;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; HEIGHT];
        let (b, _) = S::as_simd_f32s(self.panel);
        let (b, _) = b.as_chunks::<VECTORS>();
        for (run, b) in self.a.runs.iter().zip(b.chunks_exact(len)) {
            let rows: [&[f32]; HEIGHT] =
                std::array::from_fn(|r| &self.a.values[self.starts[r] + run..][..len]);
            let b = &b[..len];
            for k in 0..len {
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let a = simd.splat_f32s(row[k]);
                    for (sum, b) in sums.iter_mut().zip(&b[k]) {
                        *sum = simd.mul_add_e_f32s(a, *b, *sum);
                    }
                }
            }
        }
        for (sums, destination) in sums.into_iter().zip(self.destinations) {
            let out = &mut self.out[destination..][..self.columns];
            let (whole, rest) = S::as_mut_simd_f32s(out);
            let mut sums = sums.into_iter();
            for (out, sum) in whole.iter_mut().zip(&mut sums) {
                *out = if self.accumulate {
                    simd.add_f32s(*out, sum)
                } else {
                    sum
                };
            }
            if !rest.is_empty()
                && let Some(sum) = sums.next()
            {
                let sum = if self.accumulate {
                    simd.add_f32s(simd.partial_load_f32s(rest), sum)
                } else {
                    sum
                };
                simd.partial_store_f32s(rest, sum);
            }
        }
    }
}
