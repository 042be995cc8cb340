//! Puts matrices in the order of tiles with vector instructions, as rows or as columns, where this happens often.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::PanelsShape;
use super::panels::Panel;

/// The largest number of values in a vector.
const MOST_LANES: usize = 16;

/// Fills `panels`, a matrix whose row `k` is `row(k)`.
#[inline(always)]
pub(crate) fn pack_rows<'a, S: Simd>(
    simd: S,
    shape: PanelsShape,
    panels: &mut [f32],
    row: impl Fn(usize) -> &'a [f32],
) {
    for panel in shape.panels() {
        let packed = &mut panels[panel.range.clone()];
        pack_rows_of_panel(simd, &panel, 0, packed, &row);
    }
}

/// As [`pack_rows`].
#[inline(always)]
pub(crate) fn pack_rows_on_all_cores<'a, S: Simd>(
    simd: S,
    shape: PanelsShape,
    mut panels: &mut [f32],
    row: impl Fn(usize) -> &'a [f32] + Sync,
) {
    struct Pack<'b, F> {
        panel: &'b Panel,
        first: usize,
        packed: &'b mut [f32],
        row: &'b F,
    }
    impl<'a, F: Fn(usize) -> &'a [f32]> WithSimd for Pack<'_, F> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            pack_rows_of_panel(simd, self.panel, self.first, self.packed, self.row);
        }
    }
    /// Rows that a task packs: some microseconds of work.
    const ROWS: usize = 64;

    let mut tasks = Vec::new();
    for panel in shape.panels() {
        let width = panel.vectors * S::F32_LANES;
        let packed = panels
            .split_off_mut(..panel.range.len())
            .unwrap_or_default();
        for (index, packed) in packed.chunks_mut(ROWS * width).enumerate() {
            tasks.push((panel.clone(), index * ROWS, packed));
        }
    }
    let row = &row;
    tasks.into_par_iter().for_each(|(panel, first, packed)| {
        simd.vectorize(Pack {
            panel: &panel,
            first,
            packed,
            row,
        });
    });
}

/// Fills rows of a panel, from row `first` on.
#[inline(always)]
fn pack_rows_of_panel<'a, S: Simd>(
    simd: S,
    panel: &Panel,
    first: usize,
    packed: &mut [f32],
    row: &impl Fn(usize) -> &'a [f32],
) {
    let (packed, _) = S::as_mut_simd_f32s(packed);
    for (k, packed) in packed.chunks_exact_mut(panel.vectors).enumerate() {
        let (whole, rest) = S::as_simd_f32s(&row(first + k)[panel.columns.clone()]);
        let (of_whole, filled_up) = packed.split_at_mut(whole.len());
        for (packed, whole) in of_whole.iter_mut().zip(whole) {
            *packed = *whole;
        }
        if let [one, others @ ..] = filled_up {
            *one = simd.partial_load_f32s(rest);
            others.fill(simd.splat_f32s(0.0));
        }
    }
}

/// Fills `panels`, a matrix whose column `n` is `factor * row(n)`, and zero from `rows` on.
#[inline(always)]
pub(crate) fn pack_columns<'a, S: Simd>(
    simd: S,
    shape: PanelsShape,
    panels: &mut [f32],
    rows: usize,
    row: impl Fn(usize) -> &'a [f32],
    factor: f32,
) {
    const { assert!(S::F32_LANES <= MOST_LANES) };
    let factor = simd.splat_f32s(factor);
    for panel in shape.panels() {
        let (packed, _) = S::as_mut_simd_f32s(&mut panels[panel.range]);
        for vector in 0..panel.vectors {
            let first = panel.columns.start + vector * S::F32_LANES;
            for k in (0..shape.depth).step_by(S::F32_LANES) {
                let len = S::F32_LANES.min(shape.depth - k);
                let mut square = [simd.splat_f32s(0.0); MOST_LANES];
                for (lane, square) in square.iter_mut().enumerate().take(S::F32_LANES) {
                    if first + lane < rows {
                        let part = &row(first + lane)[k..k + len];
                        let (whole, _) = S::as_simd_f32s(part);
                        let part = match whole.first() {
                            Some(whole) => *whole,
                            None => simd.partial_load_f32s(part),
                        };
                        *square = simd.mul_f32s(part, factor);
                    }
                }
                transpose(simd, &mut square);
                let rows = packed[k * panel.vectors..].chunks_mut(panel.vectors);
                for (packed, square) in rows.zip(&square[..len]) {
                    packed[vector] = *square;
                }
            }
        }
    }
}

/// Transposes the first `F32_LANES` rows: first squares of two by two numbers, then of four by four, and so on.
#[inline(always)]
fn transpose<S: Simd>(simd: S, rows: &mut [S::f32s; MOST_LANES]) {
    swap_corners::<S, 1>(simd, rows);
    swap_corners::<S, 2>(simd, rows);
    swap_corners::<S, 4>(simd, rows);
    swap_corners::<S, 8>(simd, rows);
}

/// Swaps the upper right and lower left quarters of squares of `2 HALF` by `2 HALF` numbers.
#[inline(always)]
fn swap_corners<S: Simd, const HALF: usize>(simd: S, rows: &mut [S::f32s; MOST_LANES]) {
    const LANES: [u32; MOST_LANES] = {
        let mut lanes = [0; MOST_LANES];
        let mut lane = 0;
        while lane < MOST_LANES {
            lanes[lane] = lane as u32;
            lane += 1;
        }
        lanes
    };
    if HALF >= S::F32_LANES {
        return;
    }
    let (lanes, _) = S::as_simd_u32s(&LANES);
    let is_right = simd.greater_than_u32s(
        simd.and_u32s(lanes[0], simd.splat_u32s(HALF as u32)),
        simd.splat_u32s(0),
    );
    for upper in 0..MOST_LANES {
        if upper & HALF == 0 {
            let (above, below) = (rows[upper], rows[upper + HALF]);
            rows[upper] = simd.select_f32s(is_right, simd.rotate_right_f32s(below, HALF), above);
            rows[upper + HALF] =
                simd.select_f32s(is_right, below, simd.rotate_left_f32s(above, HALF));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::vectorized;

    /// Packs rows of `depth` numbers as columns, times 2.
    struct PackColumns<'a> {
        rows: &'a [f32],
        depth: usize,
        padded: usize,
    }

    impl WithSimd for PackColumns<'_> {
        type Output = (PanelsShape, Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self {
                rows,
                depth,
                padded,
            } = self;
            let shape = PanelsShape::new::<S>(depth, padded);
            let mut panels = vec![f32::NAN; shape.len()];
            pack_columns(
                simd,
                shape,
                &mut panels,
                rows.len() / depth,
                |row| &rows[row * depth..][..depth],
                2.0,
            );
            (shape, panels)
        }
    }

    #[test]
    fn columns_are_rows_times_the_factor() {
        for (count, depth, padded) in [
            (1, 1, 16),
            (16, 32, 16),
            (7, 5, 16),
            (70, 37, 80),
            (64, 3, 64),
        ] {
            let rows: Vec<f32> = (0..count * depth).map(|index| index as f32).collect();
            let work = PackColumns {
                rows: &rows,
                depth,
                padded,
            };
            let (shape, panels) = vectorized(work);
            for panel in shape.panels() {
                let width = panel.range.len() / depth;
                for (k, packed) in panels[panel.range].chunks_exact(width).enumerate() {
                    for (offset, packed) in packed.iter().enumerate() {
                        let column = panel.columns.start + offset;
                        let expected = if column < count {
                            2.0 * rows[column * depth + k]
                        } else {
                            0.0
                        };
                        assert_eq!(*packed, expected, "{count} {depth}: {k} {column}");
                    }
                }
            }
        }
    }

    /// Packs rows of `columns` numbers.
    struct PackRows<'a> {
        rows: &'a [f32],
        columns: usize,
    }

    impl WithSimd for PackRows<'_> {
        type Output = [Vec<f32>; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self { rows, columns } = self;
            let shape = PanelsShape::new::<S>(rows.len() / columns, columns);
            let [mut ours, mut plain] = [f32::NAN, 0.0].map(|value| vec![value; shape.len()]);
            let row = |index: usize| &rows[index * columns..][..columns];
            pack_rows(simd, shape, &mut ours, row);
            let mut on_all_cores = vec![f32::NAN; shape.len()];
            pack_rows_on_all_cores(simd, shape, &mut on_all_cores, row);
            assert_eq!(on_all_cores, ours);
            for panel in shape.panels() {
                let width = panel.range.len() / shape.depth;
                for (k, packed) in plain[panel.range].chunks_exact_mut(width).enumerate() {
                    packed[..panel.columns.len()].copy_from_slice(&row(k)[panel.columns.clone()]);
                }
            }
            [ours, plain]
        }
    }

    #[test]
    fn rows_are_packed_as_without_vector_instructions() {
        for (count, columns) in [
            (1, 1),
            (16, 32),
            (7, 5),
            (3, 70),
            (2, 64),
            (2, 33),
            (150, 130),
        ] {
            let rows: Vec<f32> = (0..count * columns).map(|index| index as f32).collect();
            let [ours, plain] = vectorized(PackRows {
                rows: &rows,
                columns,
            });
            assert_eq!(ours, plain, "{count} {columns}");
        }
    }
}
