//! The kernel in the order in which products read it.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Stencil;
use crate::arrays::{self, Array};

/// Neighbouring output channels that are copied together: one cache line.
const LINE: usize = 16;

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
    let step = rows.div_ceil(16);
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

/// Calls `visit(index of the tap in the phase, index of the tap in the kernel)` for every pair whose weights are added.
pub(super) fn each_tap(
    stencil: &Stencil,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    mut visit: impl FnMut(usize, usize),
) {
    for (y, rows) in rows.iter().enumerate() {
        for (x, taps) in columns.iter().enumerate() {
            for row in rows.clone() {
                for column in taps.clone() {
                    visit(y * columns.len() + x, row * stencil.kernel[1] + column);
                }
            }
        }
    }
}

/// The weights of one phase, `[taps of the phase, channels read, channels written]`, from [`by_taps`].
pub(super) fn of_phase(
    stencil: &Stencil,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    ordered: &[f32],
) -> Array {
    let len = stencil.channels_read * stencil.channels_written;
    let mut weights = arrays::zeros(rows.len() * columns.len() * len);
    each_tap(stencil, rows, columns, |to, from| {
        let from = &ordered[from * len..][..len];
        for (sum, weight) in weights[to * len..][..len].iter_mut().zip(from) {
            *sum += weight;
        }
    });
    weights
}

/// Adds the gradient of [`of_phase`]'s weights to the gradient of [`by_taps`]'s.
pub(super) fn add_phase_gradient(
    stencil: &Stencil,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    gradient: &[f32],
    ordered: &mut [f32],
) {
    let len = stencil.channels_read * stencil.channels_written;
    each_tap(stencil, rows, columns, |from, to| {
        let from = &gradient[from * len..][..len];
        for (sum, gradient) in ordered[to * len..][..len].iter_mut().zip(from) {
            *sum += gradient;
        }
    });
}
