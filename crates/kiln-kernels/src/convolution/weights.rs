//! The kernel in the order in which products read it.

use std::ops::{Deref, Range};

use rayon::prelude::*;

use super::geometry::Stencil;
use crate::arrays::{self, Array};

/// Neighbouring output channels that are copied together: one cache line.
const LINE: usize = 16;

/// Numbers that a task writes at least: some microseconds of work.
const NUMBERS_OF_TASK: usize = 1 << 12;

/// The kernel of a stencil tap by tap, `[taps, channels read, channels written]`, from `weight`,
/// `[channels_out, channels_in, taps]`.
pub(super) fn by_taps(stencil: &Stencil, weight: &[f32]) -> Array {
    let taps = stencil.kernel[0] * stencil.kernel[1];
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let mut ordered = arrays::array(weight.len());
    tasks(&mut ordered, taps, read, written)
        .into_par_iter()
        .for_each(|(first, mut taps_of_rows)| {
            if stencil.back {
                let rows = taps_of_rows[0].len() / written;
                for row in 0..rows {
                    let weight = &weight[(first + row) * written * taps..][..written * taps];
                    for (tap, ordered) in taps_of_rows.iter_mut().enumerate() {
                        let ordered = &mut ordered[row * written..][..written];
                        for (value, taps) in ordered.iter_mut().zip(weight.chunks_exact(taps)) {
                            *value = taps[tap];
                        }
                    }
                }
            } else {
                let weight = &weight[first * taps..];
                match taps {
                    9 => lines::<9>(weight, read * taps, taps_of_rows),
                    _ => lines::<1>(weight, read * taps, taps_of_rows),
                }
            }
        });
    ordered
}

/// Copies rows `[rows, written]` of all taps, `TAPS` of them at a time: number `(row, output)` of tap `t` is
/// `weight[output * step + row * taps + t]`.
fn lines<const TAPS: usize>(weight: &[f32], step: usize, mut taps_of_rows: Vec<&mut [f32]>) {
    let taps = taps_of_rows.len();
    let written = weight.len().div_ceil(step);
    let rows = taps_of_rows[0].len() / written;
    for from in (0..written).step_by(LINE) {
        let line = from..(from + LINE).min(written);
        for row in 0..rows {
            for (group, some) in taps_of_rows.chunks_exact_mut(TAPS).enumerate() {
                let mut columns = [[0.0; LINE]; TAPS];
                for (index, output) in line.clone().enumerate() {
                    let at = output * step + row * taps + group * TAPS;
                    for (column, value) in columns.iter_mut().zip(&weight[at..at + TAPS]) {
                        column[index] = *value;
                    }
                }
                for (ordered, column) in some.iter_mut().zip(&columns) {
                    ordered[row * written..][line.clone()].copy_from_slice(&column[..line.len()]);
                }
            }
        }
    }
}

/// The inverse of [`by_taps`] for the forward stencil.
pub(super) fn from_taps(stencil: &Stencil, ordered: &[f32]) -> Array {
    let taps = stencil.kernel[0] * stencil.kernel[1];
    let (read, written) = (stencil.channels_read, stencil.channels_written);
    let mut weight = arrays::array(ordered.len());
    weight
        .par_chunks_mut(LINE * read * taps)
        .enumerate()
        .for_each(|(block, weight)| {
            let outputs = weight.len() / (read * taps);
            for input in 0..read {
                for tap in 0..taps {
                    let line = &ordered[(tap * read + input) * written + block * LINE..][..outputs];
                    for (output, gradient) in line.iter().enumerate() {
                        weight[(output * read + input) * taps + tap] = *gradient;
                    }
                }
            }
        });
    weight
}

/// Rows of `[taps, rows, columns]` for every task: its first row, and its part of each tap.
fn tasks(
    ordered: &mut [f32],
    taps: usize,
    rows: usize,
    columns: usize,
) -> Vec<(usize, Vec<&mut [f32]>)> {
    let step = LINE.div_ceil(taps).max(NUMBERS_OF_TASK / (taps * columns));
    let mut tasks: Vec<_> = (0..rows)
        .step_by(step)
        .map(|first| (first, Vec::with_capacity(taps)))
        .collect();
    for tap in ordered.chunks_exact_mut(rows * columns) {
        for (task, part) in tasks.iter_mut().zip(tap.chunks_mut(step * columns)) {
            task.1.push(part);
        }
    }
    tasks
}

/// For every tap of a phase, the taps of the kernel whose weights are added.
fn sources(
    stencil: &Stencil,
    [rows, columns]: [&[Range<usize>]; 2],
) -> impl Iterator<Item = Vec<usize>> {
    let width = stencil.kernel[1];
    rows.iter().flat_map(move |rows| {
        columns.iter().map(move |columns| {
            let row = |row| columns.clone().map(move |column| row * width + column);
            rows.clone().flat_map(row).collect()
        })
    })
}

/// The weights of a tap of a phase, `[channels read, channels written]`.
pub(super) enum TapWeights<'a> {
    /// Those of one of the kernel's taps.
    One(&'a [f32]),
    /// The sum of those of several.
    Sum(Array),
}

impl Deref for TapWeights<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::One(weights) => weights,
            Self::Sum(weights) => weights,
        }
    }
}

/// The weights of the taps of one phase, from [`by_taps`].
pub(super) fn of_phase<'a>(
    stencil: &Stencil,
    taps: [&[Range<usize>]; 2],
    ordered: &'a [f32],
) -> Vec<TapWeights<'a>> {
    let len = stencil.channels_read * stencil.channels_written;
    let weights = |tap: &usize| &ordered[tap * len..][..len];
    sources(stencil, taps)
        .map(|taps| match &taps[..] {
            [tap] => TapWeights::One(weights(tap)),
            taps => {
                let mut sum = arrays::array(len);
                write_sum(&mut sum, &taps.iter().map(weights).collect::<Vec<_>>());
                TapWeights::Sum(sum)
            }
        })
        .collect()
}

/// The gradient of [`by_taps`]'s weights from those of [`of_phase`]'s, of all phases.
pub(super) fn sum_phase_gradients<'a>(
    stencil: &Stencil,
    phases: impl Iterator<Item = ([&'a [Range<usize>]; 2], &'a Array)>,
) -> Array {
    let len = stencil.channels_read * stencil.channels_written;
    let mut parts = vec![Vec::new(); stencil.kernel[0] * stencil.kernel[1]];
    for (taps, gradient) in phases {
        for (from, taps) in sources(stencil, taps).enumerate() {
            for to in taps {
                parts[to].push(&gradient[from * len..][..len]);
            }
        }
    }
    let mut ordered = arrays::array(parts.len() * len);
    for (sum, parts) in ordered.chunks_exact_mut(len).zip(&parts) {
        write_sum(sum, parts);
    }
    ordered
}

/// Writes the sum of arrays of the same length.
fn write_sum(sum: &mut [f32], parts: &[&[f32]]) {
    let pieces = sum.par_chunks_mut(NUMBERS_OF_TASK).enumerate();
    pieces.for_each(|(index, sum)| {
        sum.fill(0.0);
        for part in parts {
            let part = &part[index * NUMBERS_OF_TASK..][..sum.len()];
            for (sum, number) in sum.iter_mut().zip(part) {
                *sum += number;
            }
        }
    });
}
