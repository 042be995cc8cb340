//! A stencil as products of gathered pixels and weights, one product for each phase.
//!
//! Pixels of a row lie side by side in a window, channels innermost. So an output reads one stretch of memory for each
//! row of the kernel, and nothing is copied to join them.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::geometry::Stencil;
use super::weights::{self, TapWeights};
use super::window::{Block, Reading, Window};
use crate::arrays::{self, Array};
use crate::precision::Factors;
use crate::product::{
    Bf16Panels, Bf16Rows, Gather, Outer, Panels, PanelsShape, TILE, add_outer_products,
    add_products_bf16, multiply_gathered, multiply_gathered_bf16, pack_rows_on_all_cores,
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
            let taps = weights::of_phase(stencil, stencil.taps(pair), ordered);
            let depth = taps.len() * stencil.channels_read;
            let part = |k: usize, range: Range<usize>| {
                let tap: &TapWeights = &taps[k / stencil.channels_read];
                let from = k % stencil.channels_read * columns + range.start;
                &tap[from..][..range.len()]
            };
            match stencil.precision {
                Factors::F32 => {
                    let shape = PanelsShape::new::<S>(depth, columns);
                    let mut panels = arrays::array(shape.len());
                    pack_rows_on_all_cores(simd, shape, &mut panels, |k| part(k, 0..columns));
                    Packed::F32(shape, panels)
                }
                Factors::Bf16 => Packed::Bf16(Bf16Panels::on_all_cores(simd, depth, columns, part)),
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

/// The gradient of the weights of all phases.
#[derive(Debug)]
pub(super) struct DirectGradient<'a> {
    stencil: &'a Stencil,
    /// For each phase, blocks of [some](rows_of_block) rows of `[taps of the phase * channels read, channels written]`, one
    /// after the other. In a block the parts lie one after the other.
    phases: Vec<Array>,
    columns_of_part: usize,
}

/// Some rows and columns of a phase's gradient: `[rows, columns]`, or with bf16 products `[columns, rows]`.
pub(super) struct GradientPart<'a> {
    phase: usize,
    /// Row of the kernel's rows in the phase, and first number of its stretch.
    run: usize,
    first: usize,
    /// Channels that are written.
    columns: Range<usize>,
    sums: &'a mut [f32],
}

/// Rows of a gradient that a task computes: whole tiles.
const fn rows_of_block(precision: Factors) -> usize {
    match precision {
        Factors::F32 => 48,
        Factors::Bf16 => 128,
    }
}

/// The fewest columns that a task computes, if there are more: whole tiles.
const fn columns_step(precision: Factors) -> usize {
    match precision {
        Factors::F32 => 64,
        Factors::Bf16 => TILE,
    }
}

impl<'a> DirectGradient<'a> {
    /// With at least one part for each of `tasks`, if that is possible.
    pub(super) fn new(stencil: &'a Stencil, tasks: usize) -> Self {
        let (read, written) = (stencil.channels_read, stencil.channels_written);
        let mut blocks = 0;
        let mut phases = Vec::new();
        for pair in pairs(stencil) {
            let [rows, columns] = stencil.taps(pair);
            let run_len = columns.len() * read;
            blocks += rows.len() * run_len.div_ceil(rows_of_block(stencil.precision));
            phases.push(arrays::zeros(rows.len() * run_len * written));
        }
        let parts_of_block = tasks.div_ceil(blocks.max(1)).max(1);
        Self {
            stencil,
            phases,
            columns_of_part: written
                .div_ceil(parts_of_block)
                .next_multiple_of(columns_step(stencil.precision))
                .min(written),
        }
    }

    /// The columns of each part of a block.
    fn columns_of_parts(&self) -> Vec<Range<usize>> {
        let written = self.stencil.channels_written;
        (0..written)
            .step_by(self.columns_of_part)
            .map(|first| first..written.min(first + self.columns_of_part))
            .collect()
    }

    /// The parts that can be computed side by side.
    pub(super) fn parts(&mut self) -> Vec<GradientPart<'_>> {
        let (read, written) = (self.stencil.channels_read, self.stencil.channels_written);
        let rows_of_block = rows_of_block(self.stencil.precision);
        let columns_of_parts = self.columns_of_parts();
        let mut parts = Vec::new();
        for (phase, (pair, sums)) in pairs(self.stencil).zip(&mut self.phases).enumerate() {
            let run_len = self.stencil.taps(pair)[1].len() * read;
            if run_len == 0 {
                continue;
            }
            for (run, sums) in sums.chunks_exact_mut(run_len * written).enumerate() {
                for (block, mut sums) in sums.chunks_mut(rows_of_block * written).enumerate() {
                    let rows = sums.len() / written;
                    for columns in &columns_of_parts {
                        let sums = sums.split_off_mut(..rows * columns.len());
                        parts.push(GradientPart {
                            phase,
                            run,
                            first: block * rows_of_block,
                            columns: columns.clone(),
                            sums: sums.unwrap_or_default(),
                        });
                    }
                }
            }
        }
        parts
    }

    /// The gradient of the kernel [by taps](weights::by_taps).
    pub(super) fn into_taps(mut self) -> Array {
        self.join_parts();
        // Without doubling there is one phase, with the taps of the kernel.
        if self.phases.len() == 1
            && let Some(only) = self.phases.pop()
        {
            return only;
        }
        let taps = pairs(self.stencil).map(|pair| self.stencil.taps(pair));
        weights::sum_phase_gradients(self.stencil, taps.zip(&self.phases))
    }

    /// Puts the rows of all blocks in order: `[rows, channels written]`.
    fn join_parts(&mut self) {
        let stencil = self.stencil;
        let columns_of_parts = self.columns_of_parts();
        if stencil.precision == Factors::F32 && columns_of_parts.len() == 1 {
            return;
        }
        let written = stencil.channels_written;
        for (pair, gradient) in pairs(stencil).zip(&mut self.phases) {
            let run_len = stencil.taps(pair)[1].len() * stencil.channels_read;
            let runs = gradient.par_chunks_exact_mut((run_len * written).max(1));
            let block_len = rows_of_block(stencil.precision) * written;
            let blocks = runs.flat_map(|run| run.par_chunks_mut(block_len));
            blocks.for_each(|block| {
                let rows = block.len() / written;
                let parts = Scratch::copy_of(block);
                for columns in &columns_of_parts {
                    let part = &parts[rows * columns.start..][..rows * columns.len()];
                    for (row, line) in block.chunks_exact_mut(written).enumerate() {
                        let line = &mut line[columns.clone()];
                        match stencil.precision {
                            Factors::F32 => {
                                line.copy_from_slice(&part[row * line.len()..][..line.len()]);
                            }
                            Factors::Bf16 => {
                                let columns = part.chunks_exact(rows);
                                line.iter_mut()
                                    .zip(columns)
                                    .for_each(|(to, from)| *to = from[row]);
                            }
                        }
                    }
                }
            });
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
        let columns = self.columns.len();
        match stencil.precision {
            Factors::F32 => {
                let rows = Outer {
                    a: &block.inputs[start..],
                    a_starts: sources,
                    b: &gradient[self.columns.start..],
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
                let left = &block.rounded[self.phase];
                add_products_bf16(left, self.columns.start, &right, self.sums);
            }
        }
    }
}
