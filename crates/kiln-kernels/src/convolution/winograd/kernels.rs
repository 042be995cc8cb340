//! Kernels and their transforms.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::transforms::{Four, Transform, Two};
use super::{CHANNELS_STEP, MOST_LANES, Tile, column_of, load, store};
use crate::arrays::{self, Array};
use crate::convolution::geometry::Stencil;
use crate::instructions::vectorized;
use crate::precision::Factors;
use crate::product::{Bf16Panels, PanelsShape};

/// The transformed kernel, `[points]` matrices `[channels read, channels written]`, each packed.
#[derive(Debug)]
pub(in super::super) enum WinogradWeights {
    F32 { shape: PanelsShape, panels: Array },
    Bf16(Vec<Bf16Panels>),
}

impl WinogradWeights {
    /// From `weight`, `[channels_out, channels_in, 3, 3]`.
    pub(in super::super) fn new<S: Simd>(stencil: &Stencil, weight: &[f32]) -> Self {
        let (read, written) = (stencil.channels_read, stencil.channels_written);
        if stencil.precision == Factors::F32 {
            let shape = PanelsShape::new::<S>(read, written);
            let panels = transformed(stencil, weight, shape);
            return Self::F32 { shape, panels };
        }
        let shape = PanelsShape::as_of_bf16(read, written);
        let panels = transformed(stencil, weight, shape);
        let rounded = panels.par_chunks_exact(shape.len()).map(|point| {
            Bf16Panels::new(read, written, |k, columns| {
                let width = columns.len();
                &point[columns.start * read + k * width..][..width]
            })
        });
        Self::Bf16(rounded.collect())
    }
}

/// `G g G^T` of all channels: a matrix of this shape for each point.
fn transformed(stencil: &Stencil, weight: &[f32], shape: PanelsShape) -> Array {
    let tile = Tile::of(stencil);
    let mut panels = arrays::array(tile.points() * shape.len());
    let step = shape.depth.div_ceil(FEWEST_TASKS).min(MOST_CHANNELS);
    let mut tasks: Vec<(usize, Vec<&mut [f32]>)> = (0..shape.depth)
        .step_by(step)
        .map(|first| (first, Vec::new()))
        .collect();
    for mut point in panels.chunks_exact_mut(shape.len()) {
        for panel in shape.panels() {
            let width = panel.range.len() / shape.depth;
            let (rows, rest) = point.split_at_mut(panel.range.len());
            point = rest;
            for (task, rows) in tasks.iter_mut().zip(rows.chunks_mut(step * width)) {
                task.1.push(rows);
            }
        }
    }
    tasks.into_par_iter().for_each(|(first, parts)| {
        vectorized(TransformKernel {
            stencil,
            weight,
            shape,
            first,
            parts,
        });
    });
    panels
}

/// Parts into which the weights are split for the cores, at least.
const FEWEST_TASKS: usize = 16;

/// Input channels of a part, at most.
const MOST_CHANNELS: usize = 16;

/// `G g G^T` for some of the input channels.
struct TransformKernel<'a> {
    stencil: &'a Stencil,
    weight: &'a [f32],
    shape: PanelsShape,
    /// The first of the channels.
    first: usize,
    /// Their rows in each panel of each point.
    parts: Vec<&'a mut [f32]>,
}

impl WithSimd for TransformKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match Tile::of(self.stencil) {
            Tile::Two => self.transform::<S, Two, 2, 4>(simd),
            Tile::Four => self.transform::<S, Four, 4, 6>(simd),
        }
    }
}

impl TransformKernel<'_> {
    #[inline(always)]
    fn transform<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(mut self, simd: S) {
        let panels = self.parts.len() / (N * N);
        for (index, panel) in self.shape.panels().enumerate() {
            let width = panel.range.len() / self.shape.depth;
            let rows = self.parts[index].len() / width;
            for first in (0..panel.columns.len()).step_by(S::F32_LANES) {
                for row in 0..rows {
                    let columns = panel.columns.start + first;
                    let g = self.kernels::<S>(self.first + row, columns);
                    let mut half = [[simd.splat_f32s(0.0); 3]; N];
                    for column in 0..3 {
                        let transformed = F::kernel(simd, column_of(&g, column));
                        for (half, value) in half.iter_mut().zip(transformed) {
                            half[column] = value;
                        }
                    }
                    for (y, half) in half.into_iter().enumerate() {
                        for (x, value) in F::kernel(simd, half).into_iter().enumerate() {
                            let part = &mut self.parts[(N * y + x) * panels + index];
                            store::<S>(part, row * width + first, value);
                        }
                    }
                }
            }
        }
    }

    /// The kernels from an input channel to a vector of output channels, tap by tap.
    #[inline(always)]
    fn kernels<S: Simd>(&self, read: usize, written: usize) -> [[S::f32s; 3]; 3] {
        let (rows, columns) = (
            &self.stencil.rows.phases[0].taps,
            &self.stencil.columns.phases[0].taps,
        );
        let mut taps = [[0.0; MOST_LANES]; 9];
        for lane in 0..S::F32_LANES {
            let at = if self.stencil.back {
                read * self.stencil.channels_written + written + lane
            } else {
                (written + lane) * self.stencil.channels_read + read
            };
            for (tap, value) in taps.iter_mut().zip(&self.weight[9 * at..9 * at + 9]) {
                tap[lane] = *value;
            }
        }
        let mut kernels = [[load::<S>(&taps[0], 0); 3]; 3];
        for (kernels, row) in kernels.iter_mut().zip(rows) {
            for (kernel, column) in kernels.iter_mut().zip(columns) {
                *kernel = load::<S>(&taps[3 * row.start + column.start], 0);
            }
        }
        kernels
    }
}

/// `G^T u G`: the gradient of the kernel, `[channels_out, channels_in, 3, 3]`, from the gradient of its transform,
/// `[points, channels_in, channels_out]`.
pub(in super::super) fn kernel_gradient(stencil: &Stencil, transformed: &[f32]) -> Array {
    let per_output = 9 * stencil.channels_read;
    let mut gradient = arrays::array(stencil.channels_written * per_output);
    gradient
        .par_chunks_exact_mut(CHANNELS_STEP * per_output)
        .enumerate()
        .for_each(|(index, gradient)| {
            vectorized(TransformGradient {
                stencil,
                transformed,
                first: index * CHANNELS_STEP,
                gradient,
            });
        });
    gradient
}

/// The gradient of the kernels to `CHANNELS_STEP` neighbouring channels.
struct TransformGradient<'a> {
    stencil: &'a Stencil,
    transformed: &'a [f32],
    /// The first of the channels.
    first: usize,
    gradient: &'a mut [f32],
}

impl WithSimd for TransformGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (read, written) = (self.stencil.channels_read, self.stencil.channels_written);
        let plane = read * written;
        for channel in 0..read {
            for vector in (0..CHANNELS_STEP).step_by(S::F32_LANES) {
                let at = channel * written + self.first + vector;
                let mut rows = [[simd.splat_f32s(0.0); 3]; 4];
                for (row, result) in rows.iter_mut().enumerate() {
                    let mut u = [simd.splat_f32s(0.0); 4];
                    for (column, u) in u.iter_mut().enumerate() {
                        *u = load::<S>(self.transformed, (4 * row + column) * plane + at);
                    }
                    *result = Two::kernel_gradient(simd, u);
                }
                let mut taps = [[0.0; MOST_LANES]; 9];
                for column in 0..3 {
                    let kernel = Two::kernel_gradient(simd, column_of(&rows, column));
                    for (row, value) in kernel.into_iter().enumerate() {
                        store::<S>(&mut taps[3 * row + column], 0, value);
                    }
                }
                for lane in 0..S::F32_LANES {
                    let at = 9 * ((vector + lane) * read + channel);
                    for (value, tap) in self.gradient[at..at + 9].iter_mut().zip(&taps) {
                        *value = tap[lane];
                    }
                }
            }
        }
    }
}
