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
use crate::precision::Factors;
use crate::product::{
    Bf16Panels, Gather, Outer, Panels, PanelsShape, SUMS, SideBySide, TILE, add_outer_products,
    add_outer_products_bf16, has_matrix_unit, multiply_gathered, multiply_panel_bf16, round_all,
};

use kernels::Part;
pub(super) use kernels::{WinogradWeights, kernel_gradient};
use transforms::{Four, Transform, Two};

/// Numbers of a transformed tile of the gradient of the weights.
pub(super) const GRADIENT_POINTS: usize = 16;

/// Channels must fill whole vectors.
const CHANNELS_STEP: usize = 16;

/// The largest number of values in a vector.
const MOST_LANES: usize = 16;

/// Whether the algorithm fits the stencil, and is faster. For a matrix unit multiplications are cheap, but transforms are
/// not.
pub(super) fn fits(stencil: &Stencil) -> bool {
    let pays = match stencil.precision {
        Factors::F32 => true,
        Factors::Bf16 => !has_matrix_unit() && !reads_weights_most(stencil),
    };
    pays && is_possible(stencil)
}

/// Whether reading the weights takes most of the time: they are many, and an image is small. Larger tiles need larger
/// transformed weights. The choice must not depend on the batch, so that an image has the same result in any batch.
fn reads_weights_most(stencil: &Stencil) -> bool {
    const IN_CACHES: usize = 128 * 1024;
    const FEW_POSITIONS: usize = 64;
    stencil.channels_read * stencil.channels_written > IN_CACHES
        && stencil.size_written[0] * stencil.size_written[1] <= FEW_POSITIONS
}

/// Whether the gradient of the weights is computed so. On a matrix unit it is not, and nor is that of few weights.
pub(super) fn fits_gradient(stencil: &Stencil) -> bool {
    (stencil.precision == Factors::F32 || !has_matrix_unit())
        && !stencil.has_few_weights()
        && is_possible(stencil)
}

fn is_possible(stencil: &Stencil) -> bool {
    stencil.rows.is_plain_three()
        && stencil.columns.is_plain_three()
        && stencil.size_written.iter().all(|size| size % 2 == 0)
        && stencil.channels_read.is_multiple_of(CHANNELS_STEP)
        && stencil.channels_written.is_multiple_of(CHANNELS_STEP)
}

/// Numbers of 32 bits that the transformed tiles of a block may take: half of a second-level cache of a megabyte.
const NUMBERS_OF_TILES: usize = 128 * 1024;

/// The tiles of a block.
pub(super) fn tiles(stencil: &Stencil) -> (Tile, usize) {
    let tile = Tile::of(stencil);
    let count = match stencil.precision {
        // Each block transforms the weights. So there are as many tiles as a core's share of all its caches allows, and at least
        // 64, because then the transform takes a twentieth of the time of the products.
        Factors::F32 => {
            let of_tile = tile.points() * stencil.channels_read;
            (5 * NUMBERS_OF_TILES / of_tile).clamp(64, 128)
        }
        // Half as many bits, and products of 32 channels.
        Factors::Bf16 => {
            let of_tile = tile.points() * (stencil.channels_read / 2 + TILE);
            (NUMBERS_OF_TILES / of_tile).clamp(32, 128)
        }
    };
    (tile, count)
}

/// The tiles of a block in the gradient of the weights.
pub(super) fn tiles_for_gradient(stencil: &Stencil) -> (Tile, usize) {
    match stencil.precision {
        Factors::F32 => {
            let of_tile = GRADIENT_POINTS * (stencil.channels_read + stencil.channels_written);
            (Tile::Two, (NUMBERS_OF_TILES / of_tile).clamp(16, 128))
        }
        Factors::Bf16 => tiles(stencil),
    }
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
    /// The larger tile if the outputs divide into such tiles, the numbers are exact enough, and the multiplications take
    /// longer than reading the weights.
    pub(super) fn of(stencil: &Stencil) -> Self {
        let divides = stencil.size_written.iter().all(|size| size % 4 == 0);
        if divides && stencil.precision == Factors::F32 && !reads_weights_most(stencil) {
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

/// How a transformed tile is stored. This is a trait and not a closure, because vector instructions need inlined calls.
trait Store<T> {
    fn store<S: Simd>(simd: S, values: &mut [T], at: usize, vector: S::f32s);
}

/// As it is.
struct Exactly;

impl Store<f32> for Exactly {
    #[inline(always)]
    fn store<S: Simd>(_simd: S, values: &mut [f32], at: usize, vector: S::f32s) {
        store::<S>(values, at, vector);
    }
}

/// As bf16 numbers.
struct Rounded;

impl Store<u16> for Rounded {
    #[inline(always)]
    fn store<S: Simd>(_simd: S, values: &mut [u16], at: usize, vector: S::f32s) {
        let mut exact = [0.0; MOST_LANES];
        store::<S>(&mut exact, 0, vector);
        round_all(&exact[..S::F32_LANES], &mut values[at..at + S::F32_LANES]);
    }
}

/// As the first bf16 numbers of pairs, with zeros as the second ones.
struct FirstOfPairs;

impl Store<u32> for FirstOfPairs {
    #[inline(always)]
    fn store<S: Simd>(simd: S, values: &mut [u32], at: usize, vector: S::f32s) {
        let bits = simd.wrapping_dyn_shr_u32s(rounded(simd, vector), simd.splat_u32s(16));
        S::as_mut_simd_u32s(&mut values[at..at + S::F32_LANES]).0[0] = bits;
    }
}

/// As the second bf16 numbers of pairs, whose first ones are there.
struct SecondOfPairs;

impl Store<u32> for SecondOfPairs {
    #[inline(always)]
    fn store<S: Simd>(simd: S, values: &mut [u32], at: usize, vector: S::f32s) {
        let upper = simd.and_u32s(rounded(simd, vector), simd.splat_u32s(0xFFFF_0000));
        let pairs = &mut S::as_mut_simd_u32s(&mut values[at..at + S::F32_LANES]).0[0];
        *pairs = simd.or_u32s(*pairs, upper);
    }
}

/// Bits whose upper halves are the nearest bf16 numbers, as [`round_all`] rounds.
#[inline(always)]
fn rounded<S: Simd>(simd: S, vector: S::f32s) -> S::u32s {
    let bits = simd.transmute_u32s_f32s(vector);
    let last = simd.and_u32s(
        simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(16)),
        simd.splat_u32s(1),
    );
    let nearest = simd.add_u32s(bits, simd.add_u32s(last, simd.splat_u32s(0x7FFF)));
    // Rounding up could carry a NaN over into a number.
    let quiet_nan = simd.or_u32s(bits, simd.splat_u32s(0x0040_0000));
    simd.select_u32s(simd.equal_f32s(vector, vector), nearest, quiet_nan)
}

/// Where the points of a block's tiles are: number `c` of a tile at `tile * step + point * plane + c`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    step: usize,
    plane: usize,
}

impl Layout {
    /// `[points, tiles, channels]`
    fn of_planes(tiles: usize, channels: usize) -> Self {
        Self {
            step: channels,
            plane: tiles * channels,
        }
    }
}

/// `V = B^T d B` of one tile, which begins with `inputs`: point `p` of channel `c` is stored at `p * plane + c`.
#[inline(always)]
fn transform_input<S: Simd, F: Transform<M, N>, T, W: Store<T>, const M: usize, const N: usize>(
    simd: S,
    channels: usize,
    inputs: &[f32],
    row_len: usize,
    to: &mut [T],
    plane: usize,
) {
    let inputs = &inputs[..(N - 1) * row_len + N * channels];
    let to = &mut to[..(N * N - 1) * plane + channels];
    for channel in (0..channels).step_by(S::F32_LANES) {
        let mut rows = [[simd.splat_f32s(0.0); N]; N];
        for (row, result) in rows.iter_mut().enumerate() {
            let mut d = [simd.splat_f32s(0.0); N];
            for (column, d) in d.iter_mut().enumerate() {
                *d = load::<S>(inputs, row * row_len + column * channels + channel);
            }
            *result = F::inputs(simd, d);
        }
        for column in 0..N {
            let d = column_of(&rows, column);
            for (row, point) in F::inputs(simd, d).into_iter().enumerate() {
                W::store(simd, to, (N * row + column) * plane + channel, point);
            }
        }
    }
}

/// `V = B^T d B` for all tiles of a block.
#[inline(always)]
fn transform_inputs<S: Simd, F: Transform<M, N>, T, W: Store<T>, const M: usize, const N: usize>(
    simd: S,
    stencil: &Stencil,
    reading: Reading,
    transformed: &mut [T],
    Layout { step, plane }: Layout,
) {
    let (channels, row_len) = (stencil.channels_read, reading.window.row_len());
    let starts = tile_starts(stencil, reading, M);
    for (tile, start) in starts.into_iter().enumerate() {
        let (inputs, to) = (&reading.inputs[start..], &mut transformed[tile * step..]);
        transform_input::<S, F, T, W, M, N>(simd, channels, inputs, row_len, to, plane);
    }
}

/// `A dout A^T` of one tile, which begins with `gradient`.
#[inline(always)]
fn transform_gradient<S: Simd, T, W: Store<T>>(
    simd: S,
    channels: usize,
    gradient: &[f32],
    row_len: usize,
    to: &mut [T],
    plane: usize,
) {
    let gradient = &gradient[..row_len + 2 * channels];
    let to = &mut to[..(GRADIENT_POINTS - 1) * plane + channels];
    for channel in (0..channels).step_by(S::F32_LANES) {
        let mut rows = [[simd.splat_f32s(0.0); 4]; 2];
        for (row, result) in rows.iter_mut().enumerate() {
            let at = row * row_len + channel;
            let y = [load::<S>(gradient, at), load::<S>(gradient, at + channels)];
            *result = Two::gradient(simd, y);
        }
        for column in 0..4 {
            let y = column_of(&rows, column);
            for (row, point) in Two::gradient(simd, y).into_iter().enumerate() {
                W::store(simd, to, (4 * row + column) * plane + channel, point);
            }
        }
    }
}

/// Numbers of 32 bits in a point of a block's factors for the gradient, for each channel: tiles, or pairs of tiles.
pub(super) fn gradient_depth(stencil: &Stencil, block: &Block) -> usize {
    let tiles = Tile::Two.count(stencil, block);
    match stencil.precision {
        Factors::F32 => tiles,
        Factors::Bf16 => tiles.div_ceil(2),
    }
}

/// Both factors of the gradient of the weights: `V = B^T d B`, `[points, depth, channels read]`, and `A dout A^T`, `[points,
/// depth, channels written]`, with the [`gradient_depth`]. `gradient` are the block's outputs.
#[inline(always)]
pub(super) fn transform_for_gradient<S: Simd>(
    simd: S,
    stencil: &Stencil,
    reading: Reading,
    gradient: &[f32],
    [inputs, gradients]: [&mut [f32]; 2],
) {
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let depth = gradient_depth(stencil, reading.block);
    let row_len = [reading.window.row_len(), stencil.size_written[1] * written];
    let starts = tile_starts(stencil, reading, 2);
    let starts = starts
        .into_iter()
        .zip(output_starts(stencil, reading.block, 2));
    let plane = [read, written].map(|channels| depth * channels);
    macro_rules! transform {
        ($number:ty, $store:ty, $at:expr, $from:expr, $inputs:expr, $gradients:expr) => {
            transform_input::<S, Two, $number, $store, 2, 4>(
                simd,
                read,
                &reading.inputs[$from.0..],
                row_len[0],
                &mut $inputs[$at * read..],
                plane[0],
            );
            transform_gradient::<S, $number, $store>(
                simd,
                written,
                &gradient[$from.1..],
                row_len[1],
                &mut $gradients[$at * written..],
                plane[1],
            );
        };
    }
    match stencil.precision {
        Factors::F32 => {
            for (tile, from) in starts.enumerate() {
                transform!(f32, Exactly, tile, from, inputs, gradients);
            }
        }
        Factors::Bf16 => {
            let inputs: &mut [u32] = bytemuck::cast_slice_mut(inputs);
            let gradients: &mut [u32] = bytemuck::cast_slice_mut(gradients);
            for (tile, from) in starts.enumerate() {
                if tile % 2 == 0 {
                    transform!(u32, FirstOfPairs, tile / 2, from, inputs, gradients);
                } else {
                    transform!(u32, SecondOfPairs, tile / 2, from, inputs, gradients);
                }
            }
        }
    }
}

/// The products of tiles and some output channels, from `first_channel` on.
#[derive(Clone, Copy)]
struct Products<'a> {
    values: &'a [f32],
    layout: Layout,
    first_channel: usize,
    channels: usize,
}

/// `A^T m A` for some tiles, which begin at `starts` of the outputs: written to `out`, or added to its content.
#[inline(always)]
fn transform_products<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
    simd: S,
    stencil: &Stencil,
    starts: &[usize],
    products: Products,
    out: &mut [f32],
    accumulate: bool,
) {
    let Products {
        values,
        layout: Layout { step, plane },
        first_channel,
        channels: used,
    } = products;
    let channels = stencil.channels_written;
    let row_len = stencil.size_written[1] * channels;
    for (tile, start) in starts.iter().enumerate() {
        let from = &values[tile * step..][..(N * N - 1) * plane + used];
        let start = start + first_channel;
        let out = &mut out[start..start + (M - 1) * row_len + (M - 1) * channels + used];
        for channel in (0..used).step_by(S::F32_LANES) {
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

/// Numbers of 32 bits of working memory for [`convolve`].
pub(super) fn scratch_len(stencil: &Stencil, block: &Block) -> usize {
    let tile = Tile::of(stencil);
    let tiles = tile.count(stencil, block);
    match stencil.precision {
        Factors::F32 => {
            let columns = stencil.channels_written.min(Part::CHANNELS);
            tile.points() * (tiles * (stencil.channels_read + columns) + Part::PLANE)
        }
        Factors::Bf16 => {
            let blocks = tiles.div_ceil(TILE);
            transformed_len_bf16(stencil, tiles) / 2 + blocks * tile.points() * SUMS
        }
    }
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
    match (weights, Tile::of(stencil)) {
        (WinogradWeights::Bf16(weights), _) => {
            convolve_bf16(simd, stencil, weights, reading, scratch, out, accumulate);
        }
        (WinogradWeights::F32(taps), Tile::Two) => {
            convolve_f32::<S, Two, 2, 4>(simd, stencil, taps, reading, scratch, out, accumulate);
        }
        (WinogradWeights::F32(taps), Tile::Four) => {
            convolve_f32::<S, Four, 4, 6>(simd, stencil, taps, reading, scratch, out, accumulate);
        }
    }
}

/// The kernel, [by taps](super::weights::by_taps), is transformed a part at a time. The products of some output channels stay in
/// the caches until they are transformed.
#[inline(always)]
fn convolve_f32<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
    simd: S,
    stencil: &Stencil,
    taps: &[f32],
    reading: Reading,
    scratch: &mut [f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let starts = output_starts(stencil, reading.block, M);
    let tiles = starts.len();
    let (transformed, scratch) = scratch.split_at_mut(N * N * tiles * read);
    let (weights, products) = scratch.split_at_mut(N * N * Part::PLANE);
    let layout = Layout::of_planes(tiles, read);
    transform_inputs::<S, F, f32, Exactly, M, N>(simd, stencil, reading, transformed, layout);
    for part in Part::all(read, written) {
        let (first, depth, columns) = (part.read.start, part.read.len(), part.written.len());
        let shape = PanelsShape::new::<S>(depth, columns);
        part.transform::<S, F, M, N>(simd, stencil, taps, shape, weights);
        let layout = Layout::of_planes(tiles, columns);
        for (point, values) in weights.chunks_exact(Part::PLANE).enumerate() {
            let gather = Gather {
                values: &transformed[point * tiles * read + first..],
                runs: &[0],
                len: depth,
            };
            multiply_gathered(
                simd,
                gather,
                Panels { shape, values },
                tiles,
                |tile| tile * read,
                &mut products[point * layout.plane..][..layout.plane],
                |tile| tile * columns,
                first > 0,
            );
        }
        if part.read.end == read {
            let products = Products {
                values: products,
                layout,
                first_channel: part.written.start,
                channels: columns,
            };
            transform_products::<S, F, M, N>(simd, stencil, &starts, products, out, accumulate);
        }
    }
}

/// Numbers of 16 bits in the transformed inputs of tiles, padded for [`SideBySide`].
fn transformed_len_bf16(stencil: &Stencil, tiles: usize) -> usize {
    let stride = stencil.channels_read.next_multiple_of(TILE);
    Tile::Two.points() * tiles.next_multiple_of(TILE) * stride
}

/// Products of the transformed inputs, rounded to bf16, and weights. A panel of output channels after the other: its
/// products stay in the caches until they are transformed.
#[inline(always)]
fn convolve_bf16<S: Simd>(
    simd: S,
    stencil: &Stencil,
    weights: &[Bf16Panels],
    reading: Reading,
    scratch: &mut [f32],
    out: &mut [f32],
    accumulate: bool,
) {
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let starts = output_starts(stencil, reading.block, 2);
    let tiles = starts.len();
    let stride = read.next_multiple_of(TILE);
    let (transformed, products) = scratch.split_at_mut(transformed_len_bf16(stencil, tiles) / 2);
    let transformed: &mut [u16] = bytemuck::cast_slice_mut(transformed);
    if stride > read {
        for row in transformed.chunks_exact_mut(stride) {
            row[read..].fill(0);
        }
    }
    let layout = Layout {
        step: stride,
        plane: tiles.next_multiple_of(TILE) * stride,
    };
    transform_inputs::<S, Two, u16, Rounded, 2, 4>(simd, stencil, reading, transformed, layout);
    let block_step = weights.len() * SUMS;
    for (panel, first_channel) in (0..written).step_by(TILE).enumerate() {
        for (point, weights) in weights.iter().enumerate() {
            let left = SideBySide {
                values: &transformed[point * layout.plane..][..layout.plane],
                stride,
                rows: tiles,
            };
            let sums = &mut products[point * SUMS..];
            multiply_panel_bf16(left, weights, panel, sums, block_step);
        }
        let blocks = products.chunks_exact(block_step);
        for (starts, values) in starts.chunks(TILE).zip(blocks) {
            let products = Products {
                values,
                layout: Layout {
                    step: TILE,
                    plane: SUMS,
                },
                first_channel,
                channels: TILE.min(written - first_channel),
            };
            transform_products::<S, Two, 2, 4>(simd, stencil, starts, products, out, accumulate);
        }
    }
}

/// Adds `V^T (A dout A^T)` of one point and some input channels, from `first` on, to `sums`, `[.., channels written]`. The
/// factors are those of [`transform_for_gradient`].
#[inline(always)]
pub(super) fn add_gradient<S: Simd>(
    simd: S,
    stencil: &Stencil,
    point: usize,
    first: usize,
    [inputs, gradients]: [&[f32]; 2],
    sums: &mut [f32],
) {
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let depth = inputs.len() / (GRADIENT_POINTS * read);
    let inputs = &inputs[point * depth * read + first..];
    let gradients = &gradients[point * depth * written..][..depth * written];
    match stencil.precision {
        Factors::F32 => {
            let starts = |channels| (0..depth).map(|tile| tile * channels).collect::<Vec<_>>();
            let rows = Outer {
                a: inputs,
                a_starts: &starts(read),
                b: gradients,
                b_starts: &starts(written),
            };
            add_outer_products(simd, rows, sums, written);
        }
        Factors::Bf16 => add_outer_products_bf16(
            bytemuck::cast_slice(inputs),
            read,
            bytemuck::cast_slice(gradients),
            sums,
            written,
        ),
    }
}
