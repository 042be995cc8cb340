//! 3x3 convolutions by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray 2016).
//!
//! Four outputs, a 2x2 tile, come from 4x4 inputs. With `.` for multiplication number by number and `d` the inputs, `g`
//! the kernel:
//!
//! ```text
//! out = A^T ((G g G^T) . (B^T d B)) A                      16 multiplications instead of 36
//!
//! B^T = 1  0 -1  0     G = 1    0    0        A^T = 1 1  1  0
//!       0  1  1  0         1/2  1/2  1/2            0 1 -1 -1
//!       0 -1  1  0         1/2 -1/2  1/2
//!       0  1  0 -1         0    0    1
//! ```
//!
//! Summed over input channels each of the 16 numbers is a matrix product over all tiles. The gradient of the weights
//! is `G^T (V^T (A dout A^T)) G`, with `V = B^T d B` and again 16 products. All entries of the matrices are 0, 1 or 1/2:
//! the results are as exact as those of direct sums.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::Stencil;
use super::window::{Block, Reading};
use crate::instructions::vectorized;
use crate::precision::Precision;
use crate::product::{Gather, Outer, Panels, PanelsShape, add_outer_products, multiply_gathered};
use crate::scratch;

/// Numbers of a transformed tile.
pub(super) const POINTS: usize = 16;

/// Channels have to fill vectors.
const CHANNELS_STEP: usize = 16;

/// Whether the algorithm fits the stencil. With bf16 numbers multiplications are cheap, and transforms are not.
pub(super) fn fits(stencil: &Stencil) -> bool {
    stencil.precision == Precision::F32
        && stencil.rows.is_plain_three()
        && stencil.columns.is_plain_three()
        && stencil.size_written.iter().all(|size| size % 2 == 0)
        && stencil.channels_read.is_multiple_of(CHANNELS_STEP)
        && stencil.channels_written.is_multiple_of(CHANNELS_STEP)
}

/// Tiles of a block.
pub(super) fn tiles(stencil: &Stencil, block: &Block) -> usize {
    block.images.len() * block.cells.len() / 2 * (stencil.size_written[1] / 2)
}

/// The transformed kernel, `[points]` matrices `[channels read, channels written]`, each packed.
#[derive(Debug)]
pub(super) struct WinogradWeights {
    shape: PanelsShape,
    panels: Vec<f32>,
}

impl WinogradWeights {
    /// From `weight`, `[channels_out, channels_in, 3, 3]`.
    pub(super) fn new<S: Simd>(stencil: &Stencil, weight: &[f32]) -> Self {
        let shape = PanelsShape::new::<S>(stencil.channels_read, stencil.channels_written);
        let mut panels = scratch::array(POINTS * shape.len());
        let step = shape.depth.div_ceil(TASKS);
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
        Self { shape, panels }
    }

    pub(super) fn recycle(&mut self) {
        scratch::recycle(std::mem::take(&mut self.panels));
    }
}

/// Parts in which weights are shared by the cores.
const TASKS: usize = 16;

/// The most numbers that a vector holds.
const MOST_LANES: usize = 16;

/// `G g G^T` for some of the channels that are read.
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
    fn with_simd<S: Simd>(mut self, simd: S) {
        let panels = self.parts.len() / POINTS;
        for (index, panel) in self.shape.panels().enumerate() {
            let width = panel.range.len() / self.shape.depth;
            let rows = self.parts[index].len() / width;
            for first in (0..panel.columns.len()).step_by(S::F32_LANES) {
                for row in 0..rows {
                    let columns = panel.columns.start + first;
                    let g = self.kernels::<S>(self.first + row, columns);
                    let mut half = [[simd.splat_f32s(0.0); 3]; 4];
                    for column in 0..3 {
                        let transformed = kernel_transform(simd, column_of(&g, column));
                        for (half, value) in half.iter_mut().zip(transformed) {
                            half[column] = value;
                        }
                    }
                    for (y, half) in half.into_iter().enumerate() {
                        for (x, value) in kernel_transform(simd, half).into_iter().enumerate() {
                            let part = &mut self.parts[(4 * y + x) * panels + index];
                            store::<S>(part, row * width + first, value);
                        }
                    }
                }
            }
        }
    }
}

impl TransformKernel<'_> {
    /// The kernels from a channel that is read to a vector of channels that are written, tap by tap.
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

/// `G g` along one dimension.
#[inline(always)]
fn kernel_transform<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 4] {
    let half = simd.splat_f32s(0.5);
    let outer = simd.add_f32s(g[0], g[2]);
    [
        g[0],
        simd.mul_f32s(half, simd.add_f32s(outer, g[1])),
        simd.mul_f32s(half, simd.sub_f32s(outer, g[1])),
        g[2],
    ]
}

/// Where the tiles of a block begin in its window: one number a tile.
fn tile_starts(stencil: &Stencil, Reading { block, window, .. }: Reading) -> Vec<usize> {
    let (top, left) = (
        stencil.rows.phases[0].origin,
        stencil.columns.phases[0].origin,
    );
    let mut starts = Vec::with_capacity(tiles(stencil, block));
    for image in block.images.clone() {
        for row in block.cells.clone().step_by(2) {
            for column in (0..stencil.size_written[1]).step_by(2) {
                starts.push(window.start(image, row as isize + top, column as isize + left));
            }
        }
    }
    starts
}

/// Where the tiles of a block begin in its outputs.
fn output_starts(stencil: &Stencil, block: &Block) -> Vec<usize> {
    let row_len = stencil.size_written[1] * stencil.channels_written;
    let rows = block.images.len() * block.cells.len();
    let tile_rows = (0..rows).step_by(2);
    tile_rows
        .flat_map(|row| {
            let columns = (0..stencil.size_written[1]).step_by(2);
            columns.map(move |column| row * row_len + column * stencil.channels_written)
        })
        .collect()
}

/// `B^T d` along one dimension.
#[inline(always)]
fn input_transform<S: Simd>(simd: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
    [
        simd.sub_f32s(d[0], d[2]),
        simd.add_f32s(d[1], d[2]),
        simd.sub_f32s(d[2], d[1]),
        simd.sub_f32s(d[1], d[3]),
    ]
}

/// `A^T m` along one dimension.
#[inline(always)]
fn output_transform<S: Simd>(simd: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
    [
        simd.add_f32s(m[0], simd.add_f32s(m[1], m[2])),
        simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3]),
    ]
}

/// `A y` along one dimension.
#[inline(always)]
fn gradient_transform<S: Simd>(simd: S, y: [S::f32s; 2]) -> [S::f32s; 4] {
    [
        y[0],
        simd.add_f32s(y[0], y[1]),
        simd.sub_f32s(y[0], y[1]),
        simd.neg_f32s(y[1]),
    ]
}

#[inline(always)]
fn load<S: Simd>(values: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&values[at..at + S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(values: &mut [f32], at: usize, vector: S::f32s) {
    S::as_mut_simd_f32s(&mut values[at..at + S::F32_LANES]).0[0] = vector;
}

#[inline(always)]
fn column_of<V: Copy, const ROWS: usize, const COLUMNS: usize>(
    rows: &[[V; COLUMNS]; ROWS],
    column: usize,
) -> [V; ROWS] {
    let mut values = [rows[0][column]; ROWS];
    for (value, row) in values.iter_mut().zip(rows) {
        *value = row[column];
    }
    values
}

/// `V = B^T d B` for all tiles of a block, `[points, tiles, channels read]`.
#[inline(always)]
pub(super) fn transform_inputs<S: Simd>(
    simd: S,
    stencil: &Stencil,
    reading: Reading,
    transformed: &mut [f32],
) {
    let channels = stencil.channels_read;
    let row_len = reading.window.row_len();
    let starts = tile_starts(stencil, reading);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let tile_inputs = &reading.inputs[start..start + 3 * row_len + 4 * channels];
        let to = &mut transformed[tile * channels..][..(POINTS - 1) * plane + channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); 4]; 4];
            for (row, result) in rows.iter_mut().enumerate() {
                let mut d = [simd.splat_f32s(0.0); 4];
                for (column, d) in d.iter_mut().enumerate() {
                    *d = load::<S>(tile_inputs, row * row_len + column * channels + channel);
                }
                *result = input_transform(simd, d);
            }
            for column in 0..4 {
                let d = column_of(&rows, column);
                for (row, point) in input_transform(simd, d).into_iter().enumerate() {
                    store::<S>(to, (4 * row + column) * plane + channel, point);
                }
            }
        }
    }
}

/// `A dout A^T` for all tiles of a block, `[points, tiles, channels written]`; `gradient` are the block's outputs.
#[inline(always)]
pub(super) fn transform_gradients<S: Simd>(
    simd: S,
    stencil: &Stencil,
    block: &Block,
    gradient: &[f32],
    transformed: &mut [f32],
) {
    let channels = stencil.channels_written;
    let row_len = stencil.size_written[1] * channels;
    let starts = output_starts(stencil, block);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let tile_gradient = &gradient[start..start + row_len + 2 * channels];
        let to = &mut transformed[tile * channels..][..(POINTS - 1) * plane + channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); 4]; 2];
            for (row, result) in rows.iter_mut().enumerate() {
                let at = row * row_len + channel;
                let y = [
                    load::<S>(tile_gradient, at),
                    load::<S>(tile_gradient, at + channels),
                ];
                *result = gradient_transform(simd, y);
            }
            for column in 0..4 {
                let y = column_of(&rows, column);
                for (row, point) in gradient_transform(simd, y).into_iter().enumerate() {
                    store::<S>(to, (4 * row + column) * plane + channel, point);
                }
            }
        }
    }
}

/// `A^T m A` for all tiles of a block: written to `out`, or added to what is there.
#[inline(always)]
fn transform_products<S: Simd>(
    simd: S,
    stencil: &Stencil,
    block: &Block,
    products: &[f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let channels = stencil.channels_written;
    let row_len = stencil.size_written[1] * channels;
    let starts = output_starts(stencil, block);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let from = &products[tile * channels..][..(POINTS - 1) * plane + channels];
        let out = &mut out[start..start + row_len + 2 * channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); 2]; 4];
            for (row, result) in rows.iter_mut().enumerate() {
                let mut m = [simd.splat_f32s(0.0); 4];
                for (column, m) in m.iter_mut().enumerate() {
                    *m = load::<S>(from, (4 * row + column) * plane + channel);
                }
                *result = output_transform(simd, m);
            }
            for column in 0..2 {
                let m = column_of(&rows, column);
                for (row, output) in output_transform(simd, m).into_iter().enumerate() {
                    let at = row * row_len + column * channels + channel;
                    let sum = if accumulate {
                        simd.add_f32s(load::<S>(out, at), output)
                    } else {
                        output
                    };
                    store::<S>(out, at, sum);
                }
            }
        }
    }
}

/// Numbers of working memory for [`convolve`].
pub(super) fn scratch_len(stencil: &Stencil, block: &Block) -> usize {
    POINTS * tiles(stencil, block) * (stencil.channels_read + stencil.channels_written)
}

/// The outputs of a block: written to `out`, or added to what is there.
#[inline(always)]
pub(super) fn convolve<S: Simd>(
    simd: S,
    stencil: &Stencil,
    weights: &WinogradWeights,
    reading: Reading,
    scratch: &mut [f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let tiles = tiles(stencil, reading.block);
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let (transformed, products) = scratch.split_at_mut(POINTS * tiles * read);
    transform_inputs(simd, stencil, reading, transformed);
    let matrices = weights.panels.chunks_exact(weights.shape.len());
    for (point, values) in matrices.enumerate() {
        let gather = Gather {
            values: &transformed[point * tiles * read..][..tiles * read],
            runs: &[0],
            len: read,
        };
        let panels = Panels {
            shape: weights.shape,
            values,
        };
        let products = &mut products[point * tiles * written..][..tiles * written];
        multiply_gathered(
            simd,
            gather,
            panels,
            tiles,
            |tile| tile * read,
            products,
            |tile| tile * written,
            false,
        );
    }
    transform_products(simd, stencil, reading.block, products, out, accumulate);
}

/// Adds `V^T (A dout A^T)` of one point and some input channels, from `first` on, to `sums`,
/// `[.., channels written]`. Both factors are `[points, tiles, channels]`.
#[inline(always)]
pub(super) fn add_gradient<S: Simd>(
    simd: S,
    stencil: &Stencil,
    point: usize,
    first: usize,
    transformed: &[f32],
    gradients: &[f32],
    sums: &mut [f32],
) {
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let tiles = transformed.len() / (POINTS * read);
    let starts = |channels| (0..tiles).map(|tile| tile * channels).collect::<Vec<_>>();
    let rows = Outer {
        a: &transformed[point * tiles * read + first..],
        a_starts: &starts(read),
        b: &gradients[point * tiles * written..],
        b_starts: &starts(written),
    };
    add_outer_products(simd, rows, sums, written);
}

/// `G^T u G`: the gradient of the kernel, `[channels_out, channels_in, 3, 3]`, from that of its transform,
/// `[points, channels_in, channels_out]`.
pub(super) fn kernel_gradient(stencil: &Stencil, transformed: &[f32]) -> Vec<f32> {
    let per_output = 9 * stencil.channels_read;
    let mut gradient = scratch::array(stencil.channels_written * per_output);
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
                    *result = kernel_transform_back(simd, u);
                }
                let mut taps = [[0.0; MOST_LANES]; 9];
                for column in 0..3 {
                    let kernel = kernel_transform_back(simd, column_of(&rows, column));
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

/// `G^T u` along one dimension.
#[inline(always)]
fn kernel_transform_back<S: Simd>(simd: S, u: [S::f32s; 4]) -> [S::f32s; 3] {
    let half = simd.splat_f32s(0.5);
    let sum = simd.mul_f32s(half, simd.add_f32s(u[1], u[2]));
    let difference = simd.mul_f32s(half, simd.sub_f32s(u[1], u[2]));
    [
        simd.add_f32s(u[0], sum),
        difference,
        simd.add_f32s(sum, u[3]),
    ]
}
