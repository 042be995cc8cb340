//! The two shapes of products with their factors rounded to bf16: sums of pairs of products, in tiles of 32 by 32.
//!
//! ```text
//! sums[32, 32] = left[32, depth] right[depth, 32]
//! left    row by row, numbers of 16 bits
//! right   [depth / 32, 2 halves of the columns, 16 pairs of rows, 16 columns]: a pair is two numbers in 32 bits
//! ```
//!
//! Both are filled up with zeros to whole tiles. That is how a processor's matrix unit wants them, see [`amx`]; where
//! there is none, plain arithmetic gives the same products more slowly.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod pack;
mod plain;

use pulp::Simd;

use super::{Gather, Outer};
use crate::scratch::{self, Scratch};
use pack::{round_up, rounded_rows};

pub(crate) use pack::Bf16Panels;

/// Rows and columns of a product, and the depth of a step.
const TILE: usize = 32;

/// Numbers of 32 bits in a step of the right factor.
const RIGHT_STEP: usize = TILE * TILE / 2;

/// `sums = left right`: the rows of `left` are `stride` numbers apart.
#[inline(always)]
fn multiply(left: &[u16], stride: usize, right: &[u32], sums: &mut [f32; TILE * TILE]) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::is_there() {
        return amx::multiply(left, stride, right, sums);
    }
    plain::multiply(left, stride, right, sums);
}

/// Whether this processor has a matrix unit for [`Precision::Bf16`](crate::Precision), and may use it: Intel's AMX,
/// on Linux. Elsewhere the same products are computed in plain arithmetic, more slowly than those of `f32` numbers.
pub fn has_matrix_unit() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::is_there();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// [`multiply_gathered`](super::multiply_gathered) of factors that are rounded to bf16.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "two matrices, a third to write, and where its rows are read and written"
)]
pub(crate) fn multiply_gathered_bf16(
    a: Gather,
    b: &Bf16Panels,
    rows: usize,
    source: impl Fn(usize) -> usize,
    out: &mut [f32],
    destination: impl Fn(usize) -> usize,
    accumulate: bool,
) {
    let stride = b.depth().next_multiple_of(TILE);
    let mut left = Scratch::new(TILE * stride / 2);
    let left = scratch::as_u16(&mut left);
    let mut sums = [0.0; TILE * TILE];
    for first in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - first);
        for (row, left) in left.chunks_exact_mut(stride).take(height).enumerate() {
            let (used, filling) = left.split_at_mut(b.depth());
            let start = source(first + row);
            for (run, used) in a.runs.iter().zip(used.chunks_exact_mut(a.len)) {
                round_up(&a.values[start + run..][..a.len], used);
            }
            filling.fill(0);
        }
        for (panel, right) in b.panels().enumerate() {
            multiply(left, stride, right, &mut sums);
            let columns = panel * TILE..((panel + 1) * TILE).min(b.columns());
            for (row, sums) in sums.chunks_exact(TILE).take(height).enumerate() {
                let out = &mut out[destination(first + row)..][columns.clone()];
                add_or_copy(&sums[..columns.len()], out, accumulate);
            }
        }
    }
}

/// [`add_outer_products`](super::add_outer_products) of factors that are rounded to bf16.
#[inline(always)]
pub(crate) fn add_outer_products_bf16<S: Simd>(
    simd: S,
    rows: Outer,
    out: &mut [f32],
    columns: usize,
) {
    let depth = rows.a_starts.len();
    if depth == 0 {
        return;
    }
    let height = out.len() / columns;
    let stride = depth.next_multiple_of(TILE);
    let mut left = Scratch::new(height.next_multiple_of(TILE) * stride / 2);
    let left = scratch::as_u16(&mut left);
    rounded_rows(simd, rows.a, rows.a_starts, height, left, stride);
    let right = Bf16Panels::pack(depth, columns, |r| &rows.b[rows.b_starts[r]..][..columns]);
    let mut sums = [0.0; TILE * TILE];
    for (panel, right) in right.panels().enumerate() {
        let columns_of_panel = panel * TILE..((panel + 1) * TILE).min(columns);
        let tiles = left.chunks_exact(TILE * stride);
        for (left, out) in tiles.zip(out.chunks_mut(TILE * columns)) {
            multiply(left, stride, right, &mut sums);
            for (sums, out) in sums.chunks_exact(TILE).zip(out.chunks_exact_mut(columns)) {
                let out = &mut out[columns_of_panel.clone()];
                add_or_copy(&sums[..out.len()], out, true);
            }
        }
    }
    right.recycle();
}

#[inline(always)]
fn add_or_copy(sums: &[f32], out: &mut [f32], add: bool) {
    if add {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += sum;
        }
    } else {
        out.copy_from_slice(sums);
    }
}
