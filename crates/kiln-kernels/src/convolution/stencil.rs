//! Computes a stencil, block by block, on all cores.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::direct::{self, BlockPart, DirectGradient, DirectWeights};
use super::geometry::Stencil;
use super::weights;
use super::window::{Block, Reading, Source, Window};
use super::winograd::{self, Tile, WinogradWeights};
use crate::arrays::{self, Array};
use crate::instructions::vectorized;
use crate::precision::Factors;
use crate::scratch::Scratch;

/// The initial values of outputs, before the products are added.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    /// `[channels]`
    pub(crate) bias: Option<&'a [f32]>,
    /// `[batch, channels]`
    pub(crate) per_image: Option<&'a [f32]>,
    /// `[batch, height, width, channels]`
    pub(crate) shortcut: Option<&'a [f32]>,
}

/// Cells of a block whose inputs and products stay in the second-level cache.
const POSITIONS_AT_ONCE: usize = 256;

/// Cells that the gradient of the weights processes at once, over all cores: more if there would be less than a block
/// for each core.
const GRADIENT_POSITIONS: usize = 2048;

/// The weights of a stencil in the order in which it reads them.
#[derive(Debug)]
pub(crate) struct Weights(Order);

#[derive(Debug)]
enum Order {
    Direct(DirectWeights),
    Winograd(WinogradWeights),
}

struct Prepare<'a> {
    stencil: &'a Stencil,
    weight: &'a [f32],
}

impl WithSimd for Prepare<'_> {
    type Output = Order;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Order {
        let Self { stencil, weight } = self;
        if winograd::fits(stencil) {
            return Order::Winograd(WinogradWeights::new(stencil, weight));
        }
        let ordered = weights::by_taps(stencil, weight);
        Order::Direct(DirectWeights::new(simd, stencil, &ordered))
    }
}

/// The blocks of a stencil for `images` images: small enough for the caches, and at least `tasks` of them if possible.
/// `tiles` are Winograd's in a block, if that algorithm is used.
fn blocks(
    stencil: &Stencil,
    tiles: Option<(Tile, usize)>,
    images: usize,
    tasks: usize,
) -> Vec<Block> {
    let [rows, columns] = stencil.grid();
    let (positions, rows_step) = match tiles {
        Some((tile, count)) => (tile.side().pow(2) * count, tile.side()),
        None => (POSITIONS_AT_ONCE, 1),
    };
    let share = (images * rows * columns).div_ceil(tasks);
    Block::cut(
        images,
        [rows, columns],
        positions.min(share.max(16)),
        rows_step,
    )
}

/// The outputs of a stencil for `images` images: `[images, height, width, channels]`.
pub(crate) fn apply(
    stencil: &Stencil,
    weights: &Weights,
    source: Source,
    start: Start,
    images: usize,
) -> Array {
    let weights = &weights.0;
    let mut out = arrays::array(images * stencil.written_len());
    let mut rest = &mut *out;
    let tiles = winograd::fits(stencil).then(|| winograd::tiles(stencil));
    // Winograd's transforms round, after sums.
    let precision = match tiles {
        Some(_) => Factors::F32,
        None => stencil.precision,
    };
    let blocks: Vec<(Block, &mut [f32])> =
        blocks(stencil, tiles, images, rayon::current_num_threads())
            .into_iter()
            .map(|block| {
                let row_len = stencil.size_written[1] * stencil.channels_written;
                let len = block.images.len() * block.rows_written(stencil).len() * row_len;
                (block, rest.split_off_mut(..len).unwrap_or_default())
            })
            .collect();
    blocks.into_par_iter().for_each(|(block, out)| {
        let accumulate = start.fill(stencil, &block, out);
        let window = Window::new(stencil, &block, precision);
        let borrowed = window.borrow(&source);
        let window_len = if borrowed.is_some() {
            0
        } else {
            window.memory_len()
        };
        let transform_len = match weights {
            Order::Direct(_) => 0,
            Order::Winograd(_) => winograd::scratch_len(stencil, &block),
        };
        let mut scratch = Scratch::new(window_len + transform_len);
        let (inputs, transforms) = scratch.split_at_mut(window_len);
        vectorized(Convolve {
            stencil,
            weights,
            block: &block,
            window: &window,
            source,
            borrowed,
            inputs,
            transforms,
            out,
            accumulate,
        });
    });
    out
}

impl Weights {
    /// Of `weight`, `[channels_out, channels_in, kernel height, kernel width]`.
    pub(crate) fn new(stencil: &Stencil, weight: &[f32]) -> Self {
        Self(vectorized(Prepare { stencil, weight }))
    }
}

impl Start<'_> {
    /// Writes the initial values of a block's outputs; returns whether there were any.
    fn fill(&self, stencil: &Stencil, block: &Block, out: &mut [f32]) -> bool {
        let channels = stencil.channels_written;
        let rows = block.rows_written(stencil);
        let row_len = stencil.size_written[1] * channels;
        if let Some(shortcut) = self.shortcut {
            let from = block.output_start(stencil);
            out.copy_from_slice(&shortcut[from..from + out.len()]);
        }
        if self.bias.is_none() && self.per_image.is_none() {
            return self.shortcut.is_some();
        }
        let image_len = rows.len() * row_len;
        for (image, out) in block.images.clone().zip(out.chunks_exact_mut(image_len)) {
            let mut sum = vec![0.0; channels];
            let per_image = self
                .per_image
                .map(|all| &all[image * channels..][..channels]);
            for part in [self.bias, per_image].into_iter().flatten() {
                for (sum, value) in sum.iter_mut().zip(part) {
                    *sum += value;
                }
            }
            for position in out.chunks_exact_mut(channels) {
                if self.shortcut.is_some() {
                    for (value, sum) in position.iter_mut().zip(&sum) {
                        *value += sum;
                    }
                } else {
                    position.copy_from_slice(&sum);
                }
            }
        }
        true
    }
}

struct Convolve<'a> {
    stencil: &'a Stencil,
    weights: &'a Order,
    block: &'a Block,
    window: &'a Window,
    source: Source<'a>,
    borrowed: Option<&'a [f32]>,
    inputs: &'a mut [f32],
    transforms: &'a mut [f32],
    out: &'a mut [f32],
    accumulate: bool,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            stencil,
            block,
            window,
            ..
        } = self;
        let inputs = match self.borrowed {
            Some(inputs) => inputs,
            None => {
                window.fill(simd, &self.source, self.inputs);
                &*self.inputs
            }
        };
        let reading = Reading {
            block,
            window,
            inputs,
        };
        match self.weights {
            Order::Direct(weights) => {
                direct::convolve(simd, stencil, weights, reading, self.out, self.accumulate)
            }
            Order::Winograd(weights) => winograd::convolve(
                simd,
                stencil,
                weights,
                reading,
                self.transforms,
                self.out,
                self.accumulate,
            ),
        }
    }
}

/// The gradient of the weights, `[channels_out, channels_in, taps]`, of a forward stencil: `source` is its input,
/// `gradient` the gradient of its output.
///
/// Cores share the weights, not the images: no sums have to be joined, and they are the same for any number of cores.
pub(crate) fn weight_gradient(
    stencil: &Stencil,
    source: Source,
    gradient: &[f32],
    images: usize,
) -> Array {
    // The order of the sums follows the blocks, so the blocks must not depend on the number of cores.
    let tiles = winograd::fits_gradient(stencil).then(|| winograd::tiles_for_gradient(stencil));
    let blocks = blocks(stencil, tiles, images, 1);
    let [rows, columns] = stencil.grid();
    let per_block = (images * rows * columns).div_ceil(blocks.len());
    let at_once = (GRADIENT_POSITIONS / per_block).max(rayon::current_num_threads());
    if tiles.is_some() {
        return winograd_gradient(stencil, source, gradient, &blocks, at_once);
    }
    let ordered = direct_gradient(stencil, source, gradient, &blocks, at_once);
    weights::from_taps(stencil, &ordered)
}

fn direct_gradient(
    stencil: &Stencil,
    source: Source,
    gradient: &[f32],
    blocks: &[Block],
    at_once: usize,
) -> Array {
    struct Fill<'a> {
        stencil: &'a Stencil,
        block: &'a Block,
        window: &'a Window,
        source: &'a Source<'a>,
        memory: &'a mut [f32],
        gradient: &'a [f32],
    }
    impl<'a> WithSimd for Fill<'a> {
        type Output = BlockPart<'a>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> BlockPart<'a> {
            let inputs = match self.window.borrow(self.source) {
                Some(inputs) => inputs,
                None => {
                    self.window.fill(simd, self.source, self.memory);
                    self.memory
                }
            };
            let reading = Reading {
                block: self.block,
                window: self.window,
                inputs,
            };
            BlockPart::new(simd, self.stencil, reading, self.gradient)
        }
    }
    struct Add<'a> {
        part: direct::GradientPart<'a>,
        stencil: &'a Stencil,
        blocks: &'a [BlockPart<'a>],
        gradient: &'a [f32],
    }
    impl WithSimd for Add<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) {
            for block in self.blocks {
                self.part.add(simd, self.stencil, block, self.gradient);
            }
        }
    }

    let mut sums = DirectGradient::new(stencil, rayon::current_num_threads());
    for blocks in blocks.chunks(at_once) {
        let windows: Vec<(&Block, Window)> = blocks
            .iter()
            .map(|block| (block, Window::new(stencil, block, stencil.precision)))
            .collect();
        let owned = |window: &Window| match window.borrow(&source) {
            Some(_) => 0,
            None => window.memory_len(),
        };
        let len = windows.iter().map(|(_, window)| owned(window)).sum();
        let mut scratch = Scratch::new(len);
        let mut rest = &mut *scratch;
        let parts: Vec<(&Block, &Window, &mut [f32])> = windows
            .iter()
            .map(|(block, window)| {
                let part = rest.split_off_mut(..owned(window));
                (*block, window, part.unwrap_or_default())
            })
            .collect();
        let filled: Vec<BlockPart> = parts
            .into_par_iter()
            .map(|(block, window, memory)| {
                vectorized(Fill {
                    stencil,
                    block,
                    window,
                    source: &source,
                    memory,
                    gradient,
                })
            })
            .collect();
        sums.parts().into_par_iter().for_each(|part| {
            vectorized(Add {
                part,
                stencil,
                blocks: &filled,
                gradient,
            });
        });
    }
    sums.into_taps()
}

fn winograd_gradient(
    stencil: &Stencil,
    source: Source,
    gradient: &[f32],
    blocks: &[Block],
    at_once: usize,
) -> Array {
    /// Both factors of a block's products.
    struct Transform<'a> {
        stencil: &'a Stencil,
        block: &'a Block,
        window: &'a Window,
        source: &'a Source<'a>,
        inputs: &'a mut [f32],
        gradient: &'a [f32],
        transformed: &'a mut [f32],
        gradients: &'a mut [f32],
    }
    impl WithSimd for Transform<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.window.fill(simd, self.source, self.inputs);
            let reading = Reading {
                block: self.block,
                window: self.window,
                inputs: self.inputs,
            };
            let start = self.block.output_start(self.stencil);
            winograd::transform_for_gradient(
                simd,
                self.stencil,
                reading,
                &self.gradient[start..],
                [self.transformed, self.gradients],
            );
        }
    }
    struct Add<'a, 'b> {
        stencil: &'a Stencil,
        point: usize,
        first: usize,
        blocks: &'a [(&'b mut [f32], &'b mut [f32])],
        sums: &'a mut [f32],
    }
    impl WithSimd for Add<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for (transformed, gradients) in self.blocks {
                winograd::add_gradient(
                    simd,
                    self.stencil,
                    self.point,
                    self.first,
                    [transformed, gradients],
                    self.sums,
                );
            }
        }
    }

    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let mut sums = arrays::zeros(winograd::GRADIENT_POINTS * read * written);
    let rows_of_part = read.div_ceil(4).next_multiple_of(12).min(read);
    for blocks in blocks.chunks(at_once) {
        let lens = |block: &Block| {
            let rows = winograd::GRADIENT_POINTS * winograd::gradient_depth(stencil, block);
            (rows * read, rows * written)
        };
        let len = blocks
            .iter()
            .map(|block| lens(block).0 + lens(block).1)
            .sum();
        let mut scratch = Scratch::new(len);
        let mut rest = &mut *scratch;
        let mut parts: Vec<(&mut [f32], &mut [f32])> = blocks
            .iter()
            .map(|block| {
                let (left, right) = lens(block);
                let part = rest.split_off_mut(..left + right);
                part.unwrap_or_default().split_at_mut(left)
            })
            .collect();
        blocks
            .par_iter()
            .zip(&mut parts)
            .for_each(|(block, (transformed, gradients))| {
                let window = Window::new(stencil, block, Factors::F32);
                let mut inputs = Scratch::new(window.memory_len());
                vectorized(Transform {
                    stencil,
                    block,
                    window: &window,
                    source: &source,
                    inputs: &mut inputs,
                    gradient,
                    transformed,
                    gradients,
                });
            });
        let tasks: Vec<(usize, usize, &mut [f32])> = sums
            .chunks_exact_mut(read * written)
            .enumerate()
            .flat_map(|(point, sums)| {
                let parts = sums.chunks_mut(rows_of_part * written).enumerate();
                parts.map(move |(index, sums)| (point, index * rows_of_part, sums))
            })
            .collect();
        tasks.into_par_iter().for_each(|(point, first, sums)| {
            vectorized(Add {
                stencil,
                point,
                first,
                blocks: &parts,
                sums,
            });
        });
    }
    winograd::kernel_gradient(stencil, &sums)
}
