//! 3x3 convolutions by Winograd's algorithm (Lavin and Gray 2016).
//!
//! A tile of `M` by `M` outputs is computed from `M + 2` by `M + 2` inputs. With `.` for elementwise multiplication,
//! `d` the inputs, `g` the kernel, and the matrices of [`transforms`]:
//!
//! ```text
//! out = A^T ((G g G^T) . (B^T d B)) A
//!
//! F(4x4, 3x3)   36 multiplications instead of 144, where the size is a multiple of four
//! F(2x2, 3x3)   16 multiplications instead of  36, for other even sizes, and for the gradient of the weights
//! ```
//!
//! Summed over input channels, each point is a matrix product over all tiles. The gradient of the weights is
//! `G^T (V^T (A dout A^T)) G`, with `V = B^T d B` and again a product for each point.

mod kernels;
mod transforms;

use pulp::Simd;

use super::geometry::Stencil;
use super::window::{Block, Reading};
use crate::precision::Precision;
use crate::product::{Gather, Outer, Panels, add_outer_products, multiply_gathered};

pub(super) use kernels::{WinogradWeights, kernel_gradient};
use transforms::{Four, Transform, Two};

/// Numbers of a transformed tile of the gradient of the weights.
pub(super) const GRADIENT_POINTS: usize = 16;

/// Channels must fill whole vectors.
const CHANNELS_STEP: usize = 16;

/// The largest number of values in a vector.
const MOST_LANES: usize = 16;

/// Whether the algorithm fits the stencil. With bf16 numbers multiplications are cheap, but transforms are not.
pub(super) fn fits(stencil: &Stencil) -> bool {
    stencil.precision == Precision::F32
        && stencil.rows.is_plain_three()
        && stencil.columns.is_plain_three()
        && stencil.size_written.iter().all(|size| size % 2 == 0)
        && stencil.channels_read.is_multiple_of(CHANNELS_STEP)
        && stencil.channels_written.is_multiple_of(CHANNELS_STEP)
}

/// Outputs that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    /// 2x2
    Two,
    /// 4x4
    Four,
}

impl Tile {
    /// The larger tile if the outputs divide into such tiles. The choice must not depend on the batch, so that an image
    /// has the same result in any batch.
    pub(super) fn of(stencil: &Stencil) -> Self {
        if stencil.size_written.iter().all(|size| size % 4 == 0) {
            Self::Four
        } else {
            Self::Two
        }
    }

    /// Rows, and columns.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Numbers of a transformed tile.
    pub(super) fn points(self) -> usize {
        (self.side() + 2).pow(2)
    }

    /// Tiles of a block.
    pub(super) fn count(self, stencil: &Stencil, block: &Block) -> usize {
        let columns = stencil.size_written[1] / self.side();
        block.images.len() * block.cells.len() / self.side() * columns
    }
}

/// Where the tiles of a block begin in its window: one number per tile.
fn tile_starts(
    stencil: &Stencil,
    Reading { block, window, .. }: Reading,
    tile: usize,
) -> Vec<usize> {
    let (top, left) = (
        stencil.rows.phases[0].origin,
        stencil.columns.phases[0].origin,
    );
    let mut starts = Vec::new();
    for image in block.images.clone() {
        for row in block.cells.clone().step_by(tile) {
            for column in (0..stencil.size_written[1]).step_by(tile) {
                starts.push(window.start(image, row as isize + top, column as isize + left));
            }
        }
    }
    starts
}

/// Where the tiles of a block begin in its outputs.
fn output_starts(stencil: &Stencil, block: &Block, tile: usize) -> Vec<usize> {
    let row_len = stencil.size_written[1] * stencil.channels_written;
    let rows = block.images.len() * block.cells.len();
    let tile_rows = (0..rows).step_by(tile);
    tile_rows
        .flat_map(|row| {
            let columns = (0..stencil.size_written[1]).step_by(tile);
            columns.map(move |column| row * row_len + column * stencil.channels_written)
        })
        .collect()
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
fn transform_inputs<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
    simd: S,
    stencil: &Stencil,
    reading: Reading,
    transformed: &mut [f32],
) {
    let channels = stencil.channels_read;
    let row_len = reading.window.row_len();
    let starts = tile_starts(stencil, reading, M);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let tile_inputs = &reading.inputs[start..start + (N - 1) * row_len + N * channels];
        let to = &mut transformed[tile * channels..][..(N * N - 1) * plane + channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); N]; N];
            for (row, result) in rows.iter_mut().enumerate() {
                let mut d = [simd.splat_f32s(0.0); N];
                for (column, d) in d.iter_mut().enumerate() {
                    *d = load::<S>(tile_inputs, row * row_len + column * channels + channel);
                }
                *result = F::inputs(simd, d);
            }
            for column in 0..N {
                let d = column_of(&rows, column);
                for (row, point) in F::inputs(simd, d).into_iter().enumerate() {
                    store::<S>(to, (N * row + column) * plane + channel, point);
                }
            }
        }
    }
}

/// `V = B^T d B` for the gradient of the weights, `[points, tiles, channels read]`.
#[inline(always)]
pub(super) fn transform_gradient_inputs<S: Simd>(
    simd: S,
    stencil: &Stencil,
    reading: Reading,
    transformed: &mut [f32],
) {
    transform_inputs::<S, Two, 2, 4>(simd, stencil, reading, transformed);
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
    let starts = output_starts(stencil, block, 2);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let tile_gradient = &gradient[start..start + row_len + 2 * channels];
        let to = &mut transformed[tile * channels..][..(GRADIENT_POINTS - 1) * plane + channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); 4]; 2];
            for (row, result) in rows.iter_mut().enumerate() {
                let at = row * row_len + channel;
                let y = [
                    load::<S>(tile_gradient, at),
                    load::<S>(tile_gradient, at + channels),
                ];
                *result = Two::gradient(simd, y);
            }
            for column in 0..4 {
                let y = column_of(&rows, column);
                for (row, point) in Two::gradient(simd, y).into_iter().enumerate() {
                    store::<S>(to, (4 * row + column) * plane + channel, point);
                }
            }
        }
    }
}

/// `A^T m A` for all tiles of a block: written to `out`, or added to its content.
#[inline(always)]
fn transform_products<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
    simd: S,
    stencil: &Stencil,
    block: &Block,
    products: &[f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let channels = stencil.channels_written;
    let row_len = stencil.size_written[1] * channels;
    let starts = output_starts(stencil, block, M);
    let plane = starts.len() * channels;
    for (tile, start) in starts.into_iter().enumerate() {
        let from = &products[tile * channels..][..(N * N - 1) * plane + channels];
        let out = &mut out[start..start + (M - 1) * row_len + M * channels];
        for channel in (0..channels).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); M]; N];
            for (row, result) in rows.iter_mut().enumerate() {
                let mut m = [simd.splat_f32s(0.0); N];
                for (column, m) in m.iter_mut().enumerate() {
                    *m = load::<S>(from, (N * row + column) * plane + channel);
                }
                *result = F::products(simd, m);
            }
            for column in 0..M {
                let m = column_of(&rows, column);
                for (row, output) in F::products(simd, m).into_iter().enumerate() {
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
    let tile = Tile::of(stencil);
    let channels = stencil.channels_read + stencil.channels_written;
    tile.points() * tile.count(stencil, block) * channels
}

/// The outputs of a block: written to `out`, or added to its content.
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
    let tile = Tile::of(stencil);
    let tiles = tile.count(stencil, reading.block);
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let (transformed, products) = scratch.split_at_mut(tile.points() * tiles * read);
    match tile {
        Tile::Two => transform_inputs::<S, Two, 2, 4>(simd, stencil, reading, transformed),
        Tile::Four => transform_inputs::<S, Four, 4, 6>(simd, stencil, reading, transformed),
    }
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
    let block = reading.block;
    match tile {
        Tile::Two => {
            transform_products::<S, Two, 2, 4>(simd, stencil, block, products, out, accumulate)
        }
        Tile::Four => {
            transform_products::<S, Four, 4, 6>(simd, stencil, block, products, out, accumulate)
        }
    }
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
    let tiles = transformed.len() / (GRADIENT_POINTS * read);
    let starts = |channels| (0..tiles).map(|tile| tile * channels).collect::<Vec<_>>();
    let rows = Outer {
        a: &transformed[point * tiles * read + first..],
        a_starts: &starts(read),
        b: &gradients[point * tiles * written..],
        b_starts: &starts(written),
    };
    add_outer_products(simd, rows, sums, written);
}
