//! Kernels and their transforms.

use std::array;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::transforms::{Transform, Two};
use super::{CHANNELS_STEP, MOST_LANES, Tile, column_of, load, store};
use crate::arrays::{self, Array};
use crate::convolution::geometry::Stencil;
use crate::convolution::weights::by_taps;
use crate::instructions::vectorized;
use crate::lines::LINE;
use crate::precision::Factors;
use crate::product::{Bf16Panels, PanelsShape};

/// The kernel, as the products of blocks read it.
#[derive(Debug)]
pub(in super::super) enum WinogradWeights {
    /// [By taps](by_taps). Each block transforms [parts](Part) of it in its cache: transformed weights are 16 or 36 numbers
    /// instead of 9, which would take more memory, and more time to read than the transform takes.
    F32(Array),
    /// Transformed: `[points]` matrices `[channels read, channels written]`, each packed.
    Bf16(Vec<Bf16Panels>),
}

impl WinogradWeights {
    /// From `weight`, `[channels_out, channels_in, 3, 3]`.
    pub(in super::super) fn new(stencil: &Stencil, weight: &[f32]) -> Self {
        let taps = by_taps(stencil, weight);
        match stencil.precision {
            Factors::F32 => Self::F32(taps),
            Factors::Bf16 => Self::Bf16(rounded(stencil, &taps)),
        }
    }
}

/// The whole kernel for tiles of 2x2, transformed and rounded.
fn rounded(stencil: &Stencil, taps: &[f32]) -> Vec<Bf16Panels> {
    struct TransformPart<'a> {
        stencil: &'a Stencil,
        taps: &'a [f32],
        part: &'a Part,
        to: &'a mut [f32],
    }
    impl WithSimd for TransformPart<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let shape = PanelsShape::as_of_bf16(self.part.read.len(), self.part.written.len());
            self.part
                .transform::<S, Two, 2, 4>(simd, self.stencil, self.taps, shape, self.to);
        }
    }

    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let points = Tile::Two.points();
    let parts: Vec<Part> = Part::all(read, written).collect();
    let mut transformed = arrays::array(parts.len() * points * Part::PLANE);
    let memory = transformed.par_chunks_exact_mut(points * Part::PLANE);
    parts.par_iter().zip(memory).for_each(|(part, to)| {
        vectorized(TransformPart {
            stencil,
            taps,
            part,
            to,
        });
    });
    let parts_of_columns = read.div_ceil(Part::CHANNELS);
    let of_point = |point| {
        Bf16Panels::new(read, written, |k, columns| {
            let index = columns.start / Part::CHANNELS * parts_of_columns + k / Part::CHANNELS;
            let (rows, width) = (parts[index].read.len(), columns.len());
            let panel = columns.start % Part::CHANNELS * rows;
            let row = k % Part::CHANNELS * width;
            &transformed[(index * points + point) * Part::PLANE + panel + row..][..width]
        })
    };
    (0..points).into_par_iter().map(of_point).collect()
}

/// The kernels from some input channels to some output channels.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) read: Range<usize>,
    pub(super) written: Range<usize>,
}

impl Part {
    /// Input channels, and output channels, at most.
    pub(super) const CHANNELS: usize = 64;

    /// Numbers from a point to the next. A line more than there are, so that the points of a kernel are in different sets of the
    /// nearest cache.
    pub(super) const PLANE: usize = Self::CHANNELS * Self::CHANNELS + LINE;

    /// All parts. Those of the first output channels come first.
    pub(super) fn all(read: usize, written: usize) -> impl Iterator<Item = Self> {
        let some = |from: usize, channels: usize| from..channels.min(from + Self::CHANNELS);
        let columns = (0..written).step_by(Self::CHANNELS);
        columns.flat_map(move |column| {
            let rows = (0..read).step_by(Self::CHANNELS);
            rows.map(move |row| Self {
                read: some(row, read),
                written: some(column, written),
            })
        })
    }

    /// `G g G^T` of the part's kernels: a packed matrix of this shape, `[channels read, channels written]`, for each point.
    #[inline(always)]
    pub(super) fn transform<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
        &self,
        simd: S,
        stencil: &Stencil,
        taps: &[f32],
        shape: PanelsShape,
        to: &mut [f32],
    ) {
        let to = &mut to[..N * N * Self::PLANE];
        let (columns, tap_len) = (
            stencil.channels_written,
            stencil.channels_read * stencil.channels_written,
        );
        let order = [&stencil.rows, &stencil.columns].map(|axis| &axis.phases[0].taps);
        // Where the kernel's numbers of an input channel begin.
        let place = |y: usize, x: usize| (3 * order[0][y].start + order[1][x].start) * tap_len;
        let places: [[usize; 3]; 3] = array::from_fn(|y| array::from_fn(|x| place(y, x)));
        for panel in shape.panels() {
            let width = panel.range.len() / shape.depth;
            for (row, channel) in self.read.clone().enumerate() {
                for first in (0..width).step_by(S::F32_LANES) {
                    let at = panel.range.start + row * width + first;
                    let from = channel * columns + self.written.start + panel.columns.start + first;
                    let is_there = first < panel.columns.len();
                    let points = if is_there {
                        transformed_kernel::<S, F, M, N>(simd, taps, places, from)
                    } else {
                        [[simd.splat_f32s(0.0); N]; N]
                    };
                    for (y, points) in points.into_iter().enumerate() {
                        for (x, point) in points.into_iter().enumerate() {
                            store::<S>(to, (N * y + x) * Self::PLANE + at, point);
                        }
                    }
                }
            }
        }
    }
}

/// `G g G^T` of neighbouring kernels, `from` numbers after the `places` of their taps.
#[inline(always)]
fn transformed_kernel<S: Simd, F: Transform<M, N>, const M: usize, const N: usize>(
    simd: S,
    taps: &[f32],
    places: [[usize; 3]; 3],
    from: usize,
) -> [[S::f32s; N]; N] {
    let mut half = [[simd.splat_f32s(0.0); 3]; N];
    for column in 0..3 {
        let mut g = [simd.splat_f32s(0.0); 3];
        for (g, row) in g.iter_mut().zip(places) {
            *g = load::<S>(taps, row[column] + from);
        }
        let transformed = F::kernel(simd, g);
        for (half, value) in half.iter_mut().zip(transformed) {
            half[column] = value;
        }
    }
    let mut points = [[simd.splat_f32s(0.0); N]; N];
    for (points, half) in points.iter_mut().zip(half) {
        *points = F::kernel(simd, half);
    }
    points
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
