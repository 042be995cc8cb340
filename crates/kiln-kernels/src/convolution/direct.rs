//! A stencil as products of gathered pixels and weights, one product for each phase.
//!
//! Pixels of a row lie side by side in a window, channels innermost. So an output reads one stretch of memory for each
//! row of the kernel, and nothing is copied to join them.

use std::ops::Range;

use pulp::Simd;

use super::geometry::Stencil;
use super::weights;
use super::window::{Block, Reading, Window};
use crate::arrays::{self, Array};
use crate::precision::Factors;
use crate::product::{
    Bf16Panels, Bf16Rows, Gather, Outer, Panels, PanelsShape, add_outer_products,
    add_products_bf16, multiply_gathered, multiply_gathered_bf16, pack_rows,
};
use crate::scratch::Scratch;

/// One phase of each dimension.
#[derive(Clone, Copy, Debug)]
struct PhasePair {
    row: usize,
    column: usize,
}

fn pairs(stencil: &Stencil) -> impl Iterator<Item = PhasePair> {
    let columns = stencil.columns.phases.len();
    (0..stencil.rows.phases.len())
        .flat_map(move |row| (0..columns).map(move |column| PhasePair { row, column }))
}

impl Stencil {
    /// The parts of the kernel whose sums are the weights of the phase.
    fn taps(&self, pair: PhasePair) -> [&[Range<usize>]; 2] {
        [
            &self.rows.phases[pair.row].taps,
            &self.columns.phases[pair.column].taps,
        ]
    }

    /// Numbers in a stretch that an output of the phase reads, and where the stretches begin.
    fn runs(&self, pair: PhasePair, window: &Window) -> (Vec<usize>, usize) {
        let [rows, columns] = self.taps(pair);
        let starts = (0..rows.len()).map(|row| row * window.row_len());
        (starts.collect(), columns.len() * self.channels_read)
    }

    /// For every output of the phase in a block, where it reads in its window and where it is written, counted from the
    /// first number of the block's first image.
    fn places(&self, pair: PhasePair, block: &Block, window: &Window) -> (Vec<usize>, Vec<usize>) {
        let (rows, columns) = (
            &self.rows.phases[pair.row],
            &self.columns.phases[pair.column],
        );
        let (mut sources, mut destinations) = (Vec::new(), Vec::new());
        for image in block.images.clone() {
            for y in block.cells.start..block.cells.end.min(rows.count) {
                let read_row = (self.rows.step * y) as isize + rows.origin;
                let written_row = self.rows.cell() * y + pair.row;
                for x in 0..columns.count {
                    let read_column = (self.columns.step * x) as isize + columns.origin;
                    let written_column = self.columns.cell() * x + pair.column;
                    sources.push(window.start(image, read_row, read_column));
                    destinations.push(
                        (image - block.images.start) * self.written_len()
                            + (written_row * self.size_written[1] + written_column)
                                * self.channels_written,
                    );
                }
            }
        }
        (sources, destinations)
    }
}

/// The weights of all phases, packed.
#[derive(Debug)]
pub(super) struct DirectWeights {
    phases: Vec<Packed>,
}

#[derive(Debug)]
enum Packed {
    F32(PanelsShape, Array),
    Bf16(Bf16Panels),
}

impl DirectWeights {
    /// From the kernel [by taps](weights::by_taps).
    #[inline(always)]
    pub(super) fn new<S: Simd>(simd: S, stencil: &Stencil, ordered: &[f32]) -> Self {
        let columns = stencil.channels_written;
        let packed = |pair| {
            let [row_taps, column_taps] = stencil.taps(pair);
            let matrix = weights::of_phase(stencil, row_taps, column_taps, ordered);
            let depth = matrix.len() / columns;
            let part =
                |k: usize, range: Range<usize>| &matrix[k * columns + range.start..][..range.len()];
            match stencil.precision {
                Factors::F32 => {
                    let shape = PanelsShape::new::<S>(depth, columns);
                    let mut panels = arrays::array(shape.len());
                    pack_rows(simd, shape, &mut panels, |k| part(k, 0..columns));
                    Packed::F32(shape, panels)
                }
                Factors::Bf16 => Packed::Bf16(Bf16Panels::new(depth, columns, part)),
            }
        };
        Self {
            phases: pairs(stencil).map(packed).collect(),
        }
    }
}

/// The outputs of a block: written to `out`, or added to its content.
#[inline(always)]
pub(super) fn convolve<S: Simd>(
    simd: S,
    stencil: &Stencil,
    weights: &DirectWeights,
    reading: Reading,
    out: &mut [f32],
    accumulate: bool,
) {
    let Reading {
        block,
        window,
        inputs,
    } = reading;
    let out_start =
        block.rows_written(stencil).start * stencil.size_written[1] * stencil.channels_written;
    for (pair, weights) in pairs(stencil).zip(&weights.phases) {
        let (runs, len) = stencil.runs(pair, window);
        let (sources, destinations) = stencil.places(pair, block, window);
        if runs.len() * len == 0 {
            // Outputs between the ones of a stride, which read nothing.
            if !accumulate {
                for destination in destinations {
                    out[destination - out_start..][..stencil.channels_written].fill(0.0);
                }
            }
            continue;
        }
        let runs = &runs;
        let (rows, source) = (sources.len(), |row: usize| sources[row]);
        let destination = |row: usize| destinations[row] - out_start;
        match weights {
            Packed::F32(shape, values) => {
                let shape = *shape;
                let panels = Panels { shape, values };
                let values = inputs;
                let gather = Gather { values, runs, len };
                multiply_gathered(
                    simd,
                    gather,
                    panels,
                    rows,
                    source,
                    out,
                    destination,
                    accumulate,
                );
            }
            Packed::Bf16(panels) => {
                let values = bytemuck::cast_slice(inputs);
                let gather = Gather { values, runs, len };
                multiply_gathered_bf16(gather, panels, rows, source, out, destination, accumulate);
            }
        }
    }
}

/// The gradient of the weights of all phases, one part after the other.
#[derive(Debug)]
pub(super) struct DirectGradient<'a> {
    stencil: &'a Stencil,
    /// `[taps of the phase * channels read, channels written]` for each phase.
    phases: Vec<Array>,
}

/// Some rows of a phase's gradient: `[rows, channels written]`, or with bf16 products `[channels written, rows]`.
pub(super) struct GradientPart<'a> {
    phase: usize,
    /// Row of the kernel's rows in the phase, and first number of its stretch.
    run: usize,
    first: usize,
    sums: &'a mut [f32],
}

/// Rows of a gradient that a task computes: whole tiles.
const fn rows_of_part(precision: Factors) -> usize {
    match precision {
        Factors::F32 => 48,
        Factors::Bf16 => 128,
    }
}

impl<'a> DirectGradient<'a> {
    pub(super) fn new(stencil: &'a Stencil) -> Self {
        let len = |pair| {
            let [rows, columns] = stencil.taps(pair);
            rows.len() * columns.len() * stencil.channels_read * stencil.channels_written
        };
        Self {
            stencil,
            phases: pairs(stencil)
                .map(|pair| arrays::zeros(len(pair)))
                .collect(),
        }
    }

    /// The parts that can be computed side by side.
    pub(super) fn parts(&mut self) -> Vec<GradientPart<'_>> {
        let (read, written) = (self.stencil.channels_read, self.stencil.channels_written);
        let rows_of_part = rows_of_part(self.stencil.precision);
        let mut parts = Vec::new();
        for (phase, (pair, sums)) in pairs(self.stencil).zip(&mut self.phases).enumerate() {
            let run_len = self.stencil.taps(pair)[1].len() * read;
            if run_len == 0 {
                continue;
            }
            for (run, sums) in sums.chunks_exact_mut(run_len * written).enumerate() {
                for (index, sums) in sums.chunks_mut(rows_of_part * written).enumerate() {
                    parts.push(GradientPart {
                        phase,
                        run,
                        first: index * rows_of_part,
                        sums,
                    });
                }
            }
        }
        parts
    }

    /// The gradient of the kernel [by taps](weights::by_taps).
    pub(super) fn into_taps(self) -> Array {
        let stencil = self.stencil;
        let (read, written) = (stencil.channels_read, stencil.channels_written);
        let taps = stencil.kernel[0] * stencil.kernel[1];
        let mut ordered = arrays::zeros(taps * read * written);
        for (pair, mut gradient) in pairs(stencil).zip(self.phases) {
            let [rows, columns] = stencil.taps(pair);
            if stencil.precision == Factors::Bf16 {
                let run_len = columns.len() * read * written;
                let part_len = rows_of_part(stencil.precision) * written;
                for run in gradient.chunks_exact_mut(run_len.max(1)) {
                    for part in run.chunks_mut(part_len) {
                        transpose(part, written);
                    }
                }
            }
            weights::add_phase_gradient(stencil, rows, columns, &gradient, &mut ordered);
        }
        ordered
    }
}

/// `[rows, columns]` from `[columns, rows]`.
fn transpose(matrix: &mut [f32], columns: usize) {
    let rows = matrix.len() / columns;
    let before = Scratch::copy_of(matrix);
    for (row, line) in matrix.chunks_exact_mut(columns).enumerate() {
        for (number, column) in line.iter_mut().zip(before.chunks_exact(rows)) {
            *number = column[row];
        }
    }
}

/// A block's inputs and output gradients, which add to the gradient of the weights.
pub(super) struct BlockPart<'a> {
    inputs: &'a [f32],
    row_len: usize,
    /// For each phase, where the outputs read, and where their gradients are.
    places: Vec<(Vec<usize>, Vec<usize>)>,
    /// The gradients of each phase, if products are of bf16 numbers.
    rounded: Vec<Bf16Rows>,
}

impl<'a> BlockPart<'a> {
    /// `gradient` belongs to all outputs.
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        stencil: &Stencil,
        reading: Reading<'a>,
        gradient: &[f32],
    ) -> Self {
        let Reading {
            block,
            window,
            inputs,
        } = reading;
        let from = block.images.start * stencil.written_len();
        let (mut places, mut rounded) = (Vec::new(), Vec::new());
        for pair in pairs(stencil) {
            let (sources, mut destinations) = stencil.places(pair, block, window);
            for destination in &mut destinations {
                *destination += from;
            }
            if stencil.precision == Factors::Bf16 {
                let channels = stencil.channels_written;
                rounded.push(Bf16Rows::from_columns(
                    simd,
                    gradient,
                    &destinations,
                    channels,
                ));
            }
            places.push((sources, destinations));
        }
        Self {
            inputs,
            row_len: window.row_len(),
            places,
            rounded,
        }
    }
}

impl GradientPart<'_> {
    /// Adds a block's contribution: `gradient` belongs to all outputs.
    #[inline(always)]
    pub(super) fn add<S: Simd>(
        &mut self,
        simd: S,
        stencil: &Stencil,
        block: &BlockPart,
        gradient: &[f32],
    ) {
        let (sources, destinations) = &block.places[self.phase];
        let start = self.run * block.row_len + self.first;
        let columns = stencil.channels_written;
        match stencil.precision {
            Factors::F32 => {
                let rows = Outer {
                    a: &block.inputs[start..],
                    a_starts: sources,
                    b: gradient,
                    b_starts: destinations,
                };
                add_outer_products(simd, rows, self.sums, columns);
            }
            Factors::Bf16 => {
                let inputs: &[u16] = bytemuck::cast_slice(block.inputs);
                let rows = self.sums.len() / columns;
                let part = |r: usize, range: Range<usize>| {
                    &inputs[sources[r] + start + range.start..][..range.len()]
                };
                let right = Bf16Panels::new(sources.len(), rows, part);
                add_products_bf16(&block.rounded[self.phase], &right, self.sums);
            }
        }
    }
}
