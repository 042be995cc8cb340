//! The two shapes of products with factors of bf16 numbers: sums of pairs of products, in tiles of 32 by 32.
//!
//! ```text
//! sums[32, 32] (+)= left[32, depth] right[depth, 32]
//! left    row by row, numbers of 16 bits                                                      -> Bf16Rows
//! right   [depth / 32, 2 halves of the columns, 16 pairs of rows, 16 columns]; a pair is two
//!         numbers in 32 bits                                                                  -> Bf16Panels
//! ```
//!
//! Both are padded with zeros to whole tiles. A processor's matrix unit needs this form, see [`amx`], and dot products of
//! pairs can use it, see [`dot`]; without either, plain arithmetic gives the same products more slowly.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
mod factors;
mod plain;

use std::ops::Range;

use super::Gather;
use crate::scratch::Scratch;

pub(crate) use factors::{Bf16Panels, Bf16Rows, round_all};

/// Rows and columns of a product, and the depth of a step.
pub(crate) const TILE: usize = 32;

/// Sums of a product.
pub(crate) const SUMS: usize = TILE * TILE;

/// Numbers of 32 bits in a step of the right factor.
const RIGHT_STEP: usize = TILE * TILE / 2;

/// Steps whose left and right factors stay in the nearest cache.
const STEPS_AT_ONCE: usize = 9;

/// The instructions with which this processor multiplies bf16 numbers faster than `f32` numbers, within the limit of the
/// environment variable `KILN_INSTRUCTIONS`: `amx` (Intel's matrix unit, on Linux) or `avx512bf16` (dot products of pairs,
/// where they are fast: on AMD's processors and Intel's Cooper Lake). Without either, the same products take longer than
/// products of `f32` numbers, much longer in plain arithmetic.
pub fn bf16_instructions() -> Option<&'static str> {
    match Unit::of_this_processor() {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Unit::Amx => Some("amx"),
        #[cfg(target_arch = "x86_64")]
        Unit::Dot if dot::is_fast() => Some("avx512bf16"),
        _ => None,
    }
}

/// Whether there is a matrix unit.
pub(crate) fn has_matrix_unit() -> bool {
    bf16_instructions() == Some("amx")
}

/// What multiplies tiles.
#[derive(Clone, Copy)]
enum Unit {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Dot,
    Plain,
}

impl Unit {
    /// The fastest one.
    fn of_this_processor() -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::is_there() {
            return Self::Amx;
        }
        #[cfg(target_arch = "x86_64")]
        if dot::is_there() {
            return Self::Dot;
        }
        Self::Plain
    }
}

/// The left factor of a tile: rows that are `stride` numbers apart, of at least as many numbers as the right one has
/// rows.
#[derive(Clone, Copy)]
struct Left<'a> {
    values: &'a [u16],
    stride: usize,
}

/// `sums (+)= left right`, at least in the first `rows` rows.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_variables, reason = "only dot products leave rows out")
)]
#[inline(always)]
fn multiply(left: Left, right: &[u32], sums: &mut [f32; SUMS], rows: usize, accumulate: bool) {
    let unit = Unit::of_this_processor();
    #[cfg(target_arch = "x86_64")]
    if let Unit::Dot = unit {
        return dot::multiply(left, right, sums, rows.min(TILE), accumulate);
    }
    if !accumulate {
        sums.fill(0.0);
    }
    match unit {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Unit::Amx => amx::multiply_add(left, right, sums),
        _ => plain::multiply_add(left, right, sums),
    }
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
    let mut left = Scratch::new(TILE * stride / 2);
    let left: &mut [u16] = bytemuck::cast_slice_mut(&mut left);
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
                multiply(Left { values, stride }, right, sums, height, step > 0);
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

/// A left factor whose rows lie side by side, `stride` numbers each: a multiple of 32, and zeros after the row's own. Rows
/// of any content follow up to a multiple of 32 rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideBySide<'a> {
    pub(crate) values: &'a [u16],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

/// The products of all rows and one panel of columns: of 32 rows each, 32 columns wide, to `sums[.., 0..1024]` of
/// `block_step` numbers.
#[inline(always)]
pub(crate) fn multiply_panel_bf16(
    left: SideBySide,
    right: &Bf16Panels,
    panel: usize,
    sums: &mut [f32],
    block_step: usize,
) {
    let SideBySide {
        values,
        stride,
        rows,
    } = left;
    let right = right.panel(panel);
    for (index, right) in right.chunks(STEPS_AT_ONCE * RIGHT_STEP).enumerate() {
        let blocks = sums.chunks_mut(block_step).enumerate();
        for (block, sums) in blocks.take(rows.div_ceil(TILE)) {
            let from = block * TILE * stride + index * STEPS_AT_ONCE * TILE;
            let left = Left {
                values: &values[from..],
                stride,
            };
            if let Some(sums) = sums.first_chunk_mut() {
                multiply(left, right, sums, rows - block * TILE, index > 0);
            }
        }
    }
}

/// `out[n, k] += sum over r of left[first + n, r] right[r, k]`: a batch's contribution to the gradient of weights, output
/// channel by output channel, for as many channels as `out` has. `first` is a multiple of 32.
#[inline(always)]
pub(crate) fn add_products_bf16(
    left: &Bf16Rows,
    first: usize,
    right: &Bf16Panels,
    out: &mut [f32],
) {
    let columns = right.columns();
    let mut sums = [0.0; SUMS];
    for (panel, right) in right.panels().enumerate() {
        let columns_of_panel = columns_of(panel, columns);
        let tiles = left.tiles().skip(first / TILE);
        for (left, out) in tiles.zip(out.chunks_mut(TILE * columns)) {
            multiply(left, right, &mut sums, TILE, false);
            for (sums, out) in sums.chunks_exact(TILE).zip(out.chunks_exact_mut(columns)) {
                add(sums, &mut out[columns_of_panel.clone()]);
            }
        }
    }
}

/// [`add_outer_products`](super::add_outer_products) of pairs of bf16 numbers: `out[k, n] +=` the sum over `r` of both
/// products of the pairs `a[r a_step + k]` and `b[r columns + n]`, for as many rows as `out` has.
#[inline(always)]
pub(crate) fn add_outer_products_bf16(
    a: &[u32],
    a_step: usize,
    b: &[u32],
    out: &mut [f32],
    columns: usize,
) {
    match Unit::of_this_processor() {
        #[cfg(target_arch = "x86_64")]
        Unit::Dot if columns.is_multiple_of(TILE / 2) => {
            dot::add_outer_products(a, a_step, b, out, columns);
        }
        _ => plain::add_outer_products(a, a_step, b, out, columns),
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

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Small whole numbers as bf16 bits: every product and sum of them is exact, whatever the order.
    fn whole_numbers() -> impl FnMut() -> u16 {
        let mut state = 7u32;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let small = (state >> 28) as f32 - 8.0;
            (small.to_bits() >> 16) as u16
        }
    }

    fn assert_as_plain_arithmetic(multiply_add: impl Fn(Left, &[u32], &mut [f32; SUMS])) {
        let mut bits = whole_numbers();
        for steps in [0, 1, 2, 5] {
            for gap in [0, 32] {
                let stride = steps * TILE + gap;
                let values: Vec<u16> = (0..TILE * stride).map(|_| bits()).collect();
                let right: Vec<u32> = (0..steps * RIGHT_STEP)
                    .map(|_| u32::from(bits()) | u32::from(bits()) << 16)
                    .collect();
                let values = &values;
                let left = Left { values, stride };
                let [mut ours, mut expected] = [[5.0; SUMS]; 2];
                multiply_add(left, &right, &mut ours);
                if stride > 0 {
                    plain::multiply_add(left, &right, &mut expected);
                }
                assert!(ours == expected, "{steps} steps, {gap} between");
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_matrix_unit_multiplies_as_plain_arithmetic_does() {
        match amx::is_there() {
            true => assert_as_plain_arithmetic(amx::multiply_add),
            false => eprintln!("skipped: this processor has no matrix unit for bf16"),
        }
    }

    #[test]
    fn dot_products_multiply_as_plain_arithmetic_does() {
        match dot::is_there() {
            true => assert_as_plain_arithmetic(|left, right, sums| {
                dot::multiply(left, right, sums, TILE, true);
            }),
            false => eprintln!("skipped: this processor has no dot products of bf16 numbers"),
        }
    }

    #[test]
    fn outer_dot_products_equal_those_of_plain_arithmetic() {
        if !dot::is_there() {
            return eprintln!("skipped: this processor has no dot products of bf16 numbers");
        }
        let mut bits = whole_numbers();
        for (rows, columns, pairs) in [(1, 16, 1), (8, 32, 3), (13, 48, 130), (16, 80, 300)] {
            let a_step = rows + 5;
            let mut factor = |len: usize| -> Vec<u32> {
                let pair = || u32::from(bits()) | u32::from(bits()) << 16;
                std::iter::repeat_with(pair).take(len).collect()
            };
            let (a, b) = (factor(pairs * a_step), factor(pairs * columns));
            let [mut ours, mut expected] = [0, 1].map(|_| vec![5.0; rows * columns]);
            dot::add_outer_products(&a, a_step, &b, &mut ours, columns);
            plain::add_outer_products(&a, a_step, &b, &mut expected, columns);
            assert!(ours == expected, "{rows}, {columns}, {pairs}");
        }
    }
}
