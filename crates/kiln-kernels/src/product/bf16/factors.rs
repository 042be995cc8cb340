//! Matrices of bf16 numbers in the order in which tiles read them.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Left, RIGHT_STEP, TILE};
use crate::arrays::{self, Array};
use crate::product::{PanelsShape, pack_columns};
use crate::scratch::Scratch;

/// A number with a nearest bf16 number.
pub(crate) trait Bf16: Copy + Default {
    /// The nearest bf16 number, in the lower 16 bits.
    fn bits(self) -> u32;
}

impl Bf16 for f32 {
    /// Ties round to even.
    #[inline(always)]
    fn bits(self) -> u32 {
        let bits = self.to_bits();
        let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
        // Rounding up could carry a NaN over into a number.
        let quiet_nan = bits | 0x0040_0000;
        (if self.is_nan() { quiet_nan } else { nearest }) >> 16
    }
}

/// A bf16 number already.
impl Bf16 for u16 {
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self)
    }
}

/// Writes the nearest bf16 numbers.
#[inline(always)]
pub(crate) fn round_all(values: &[f32], rounded: &mut [u16]) {
    for (rounded, value) in rounded.iter_mut().zip(values) {
        *rounded = value.bits() as u16;
    }
}

/// A right factor, `[depth, columns]`.
#[derive(Debug)]
pub(crate) struct Bf16Panels {
    depth: usize,
    columns: usize,
    /// Pairs of numbers, panel by panel.
    memory: Array,
}

impl Bf16Panels {
    /// The matrix of which `part(k, range)` are some columns of row `k`.
    #[inline(always)]
    pub(crate) fn new<'a, T: Bf16 + 'a>(
        depth: usize,
        columns: usize,
        part: impl Fn(usize, Range<usize>) -> &'a [T],
    ) -> Self {
        let mut panels = Self::unfilled(depth, columns);
        for (index, packed) in panels.steps_mut().enumerate() {
            fill_step(depth, columns, index, &part, packed);
        }
        panels
    }

    /// As [`new`](Self::new).
    #[inline(always)]
    pub(crate) fn on_all_cores<'a, T: Bf16 + 'a, S: Simd>(
        simd: S,
        depth: usize,
        columns: usize,
        part: impl Fn(usize, Range<usize>) -> &'a [T] + Sync,
    ) -> Self {
        struct Fill<'b, F> {
            depth: usize,
            columns: usize,
            index: usize,
            part: &'b F,
            packed: &'b mut [u32],
        }
        impl<'a, T: Bf16 + 'a, F: Fn(usize, Range<usize>) -> &'a [T]> WithSimd for Fill<'_, F> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) {
                fill_step(self.depth, self.columns, self.index, self.part, self.packed);
            }
        }

        let mut panels = Self::unfilled(depth, columns);
        let part = &part;
        let steps: Vec<&mut [u32]> = panels.steps_mut().collect();
        let tasks = steps.into_par_iter().enumerate().with_min_len(4);
        tasks.for_each(|(index, packed)| {
            simd.vectorize(Fill {
                depth,
                columns,
                index,
                part,
                packed,
            });
        });
        panels
    }

    fn unfilled(depth: usize, columns: usize) -> Self {
        let len = columns.div_ceil(TILE) * depth.div_ceil(TILE) * RIGHT_STEP;
        Self {
            depth,
            columns,
            memory: arrays::array(len),
        }
    }

    /// The steps of all panels.
    fn steps_mut(&mut self) -> impl Iterator<Item = &mut [u32]> {
        bytemuck::cast_slice_mut(&mut self.memory).chunks_exact_mut(RIGHT_STEP)
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// 32 columns each.
    pub(super) fn panels(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.columns.div_ceil(TILE)).map(|index| self.panel(index))
    }

    /// Columns from `32 index` on.
    pub(super) fn panel(&self, index: usize) -> &[u32] {
        let len = self.depth.div_ceil(TILE) * RIGHT_STEP;
        &bytemuck::cast_slice(&self.memory)[index * len..][..len]
    }
}

/// Step `index` of the panels of the matrix of which `part(k, range)` are some columns of row `k`.
#[inline(always)]
fn fill_step<'a, T: Bf16 + 'a>(
    depth: usize,
    columns: usize,
    index: usize,
    part: &impl Fn(usize, Range<usize>) -> &'a [T],
    packed: &mut [u32],
) {
    let steps = depth.div_ceil(TILE);
    let columns = super::columns_of(index / steps, columns);
    let zeros = [T::default(); TILE];
    let part = |k: usize| {
        if k < depth {
            part(k, columns.clone())
        } else {
            &zeros[..columns.len()]
        }
    };
    let (near, far) = packed.split_at_mut(RIGHT_STEP / 2);
    let lines = near
        .chunks_exact_mut(TILE / 2)
        .zip(far.chunks_exact_mut(TILE / 2));
    for (pair, (near, far)) in lines.enumerate() {
        let k = index % steps * TILE + 2 * pair;
        let (even, odd) = (part(k), part(k + 1));
        let middle = even.len().min(TILE / 2);
        interleave(&even[..middle], &odd[..middle], near);
        interleave(&even[middle..], &odd[middle..], far);
    }
}

/// Pairs of numbers, padded with zeros.
#[inline(always)]
fn interleave<T: Bf16>(even: &[T], odd: &[T], pairs: &mut [u32]) {
    let (used, filling) = pairs.split_at_mut(even.len());
    for ((pair, even), odd) in used.iter_mut().zip(even).zip(odd) {
        *pair = even.bits() | odd.bits() << 16;
    }
    filling.fill(0);
}

/// A left factor, `[rows, depth]`.
#[derive(Debug)]
pub(crate) struct Bf16Rows {
    stride: usize,
    memory: Array,
}

impl Bf16Rows {
    /// The matrix whose column `k` is `values[starts[k]..][..rows]`.
    #[inline(always)]
    pub(crate) fn from_columns<S: Simd>(
        simd: S,
        values: &[f32],
        starts: &[usize],
        rows: usize,
    ) -> Self {
        let stride = starts.len().next_multiple_of(TILE);
        let len = rows.next_multiple_of(TILE) * stride;
        let mut memory = arrays::array(len / 2);
        let packed: &mut [u16] = bytemuck::cast_slice_mut(&mut memory);
        let shape = PanelsShape::new::<S>(rows, stride);
        let mut panels = Scratch::new(shape.len());
        let column = |k: usize| &values[starts[k]..][..rows];
        pack_columns(simd, shape, &mut panels, starts.len(), column, 1.0);
        for panel in shape.panels() {
            let width = panel.range.len() / rows;
            let lines = panels[panel.range].chunks_exact(width);
            for (line, row) in lines.zip(packed.chunks_exact_mut(stride)) {
                let row = &mut row[panel.columns.clone()];
                round_all(&line[..row.len()], row);
            }
        }
        packed[rows * stride..].fill(0);
        Self { stride, memory }
    }

    /// 32 rows each.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Left<'_>> {
        let stride = self.stride;
        let values: &[u16] = bytemuck::cast_slice(&self.memory);
        let tiles = values.chunks_exact((TILE * stride).max(1));
        tiles.map(move |values| Left { values, stride })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let special = [
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1.003_906_3,
            1.011_718_8,
        ];
        let mut state = 1u32;
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(state)
        });
        for value in special.into_iter().chain(random.take(100_000)) {
            let ours = value.bits() as u16;
            let expected = half::bf16::from_f32(value);
            if value.is_nan() {
                assert!(half::bf16::from_bits(ours).is_nan());
            } else {
                assert_eq!(ours, expected.to_bits(), "{value}");
            }
        }
    }
}
