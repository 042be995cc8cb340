//! The two shapes of products with factors of bf16 numbers: sums of pairs of products, in tiles of 32 by 32.
//!
//! ```text
//! sums[32, 32] (+)= left[32, depth] right[depth, 32]
//! left    row by row, numbers of 16 bits                                                      -> Bf16Rows
//! right   [depth / 32, 2 halves of the columns, 16 pairs of rows, 16 columns]; a pair is two
//!         numbers in 32 bits                                                                  -> Bf16Panels
//! ```
//!
//! Both are padded with zeros to whole tiles. A processor's matrix unit needs this form, see [`amx`]; without one,
//! plain arithmetic gives the same products more slowly.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod factors;
mod plain;

use std::ops::Range;

use super::Gather;
use crate::scratch::{Scratch, aligned};

pub(crate) use factors::{Bf16Panels, Bf16Rows, round_all};

/// Rows and columns of a product, and the depth of a step.
const TILE: usize = 32;

/// Sums of a product.
const SUMS: usize = TILE * TILE;

/// Numbers of 32 bits in a step of the right factor.
const RIGHT_STEP: usize = TILE * TILE / 2;

/// Steps whose left and right factors stay in the nearest cache.
const STEPS_AT_ONCE: usize = 9;

/// Whether this processor has a matrix unit for [`Precision::Bf16`](crate::Precision), and may use it: Intel's AMX, on
/// Linux. Elsewhere plain arithmetic computes the same products, far more slowly than products of `f32` numbers.
pub fn has_matrix_unit() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::is_there();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// The left factor of a tile: rows that are `stride` numbers apart, of at least as many numbers as the right one has
/// rows.
#[derive(Clone, Copy)]
struct Left<'a> {
    values: &'a [u16],
    stride: usize,
}

/// `sums (+)= left right`.
#[inline(always)]
fn multiply(left: Left, right: &[u32], sums: &mut [f32; SUMS], accumulate: bool) {
    if !accumulate {
        sums.fill(0.0);
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::is_there() {
        return amx::multiply_add(left, right, sums);
    }
    plain::multiply_add(left, right, sums);
}

/// [`multiply_gathered`](super::multiply_gathered) of bf16 numbers.
#[inline(always)]
pub(crate) fn multiply_gathered_bf16(
    a: Gather<u16>,
    b: &Bf16Panels,
    rows: usize,
    source: impl Fn(usize) -> usize,
    out: &mut [f32],
    destination: impl Fn(usize) -> usize,
    accumulate: bool,
) {
    let stride = b.depth().next_multiple_of(TILE);
    let mut left = Scratch::new(aligned::len(TILE * stride / 2));
    let left = aligned::u16s_mut(&mut left, TILE * stride);
    let mut sums = Scratch::new(b.panels().count() * SUMS);
    let (sums, _) = sums.as_chunks_mut::<SUMS>();
    for first in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - first);
        for (row, left) in left.chunks_exact_mut(stride).take(height).enumerate() {
            let (used, filling) = left.split_at_mut(b.depth());
            let start = source(first + row);
            for (run, used) in a.runs.iter().zip(used.chunks_exact_mut(a.len)) {
                used.copy_from_slice(&a.values[start + run..][..a.len]);
            }
            filling.fill(0);
        }
        for step in (0..stride / TILE).step_by(STEPS_AT_ONCE) {
            let values = &left[step * TILE..];
            for (right, sums) in b.panels().zip(&mut *sums) {
                let right = &right[step * RIGHT_STEP..];
                let right = &right[..right.len().min(STEPS_AT_ONCE * RIGHT_STEP)];
                multiply(Left { values, stride }, right, sums, step > 0);
            }
        }
        for (panel, sums) in sums.iter().enumerate() {
            let columns = columns_of(panel, b.columns());
            for (row, sums) in sums.chunks_exact(TILE).take(height).enumerate() {
                let out = &mut out[destination(first + row)..][columns.clone()];
                if accumulate {
                    add(sums, out);
                } else {
                    out.copy_from_slice(&sums[..out.len()]);
                }
            }
        }
    }
}

/// `out[n, k] += sum over r of left[n, r] right[r, k]`: a batch's contribution to the gradient of weights, output
/// channel by output channel.
#[inline(always)]
pub(crate) fn add_products_bf16(left: &Bf16Rows, right: &Bf16Panels, out: &mut [f32]) {
    let columns = right.columns();
    let mut sums = [0.0; SUMS];
    for (panel, right) in right.panels().enumerate() {
        let columns_of_panel = columns_of(panel, columns);
        for (left, out) in left.tiles().zip(out.chunks_mut(TILE * columns)) {
            multiply(left, right, &mut sums, false);
            for (sums, out) in sums.chunks_exact(TILE).zip(out.chunks_exact_mut(columns)) {
                add(sums, &mut out[columns_of_panel.clone()]);
            }
        }
    }
}

/// The columns of a panel.
fn columns_of(panel: usize, columns: usize) -> Range<usize> {
    panel * TILE..((panel + 1) * TILE).min(columns)
}

#[inline(always)]
fn add(sums: &[f32], out: &mut [f32]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out += sum;
    }
}
