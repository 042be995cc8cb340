//! Numbers into memory that exists already.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::UNITS;
use super::arguments::{flat, number};
use super::update::{CHUNK, cubes_of, grid, together};

/// Copies all numbers of `from` to those of `into` from the number `first` on. Neither has gaps.
pub(super) fn copy(from: &CubeTensor, into: &CubeTensor, first: usize) {
    let numbers = number(from.meta.num_elements());
    copy_all::launch(
        &from.client,
        grid(numbers.div_ceil(UNITS)),
        CubeDim::new_1d(UNITS),
        flat(from),
        flat(into),
        numbers,
        number(first),
    );
}

#[cube(launch)]
fn copy_all(from: &Tensor<f32>, into: &mut Tensor<f32>, numbers: u32, first: u32) {
    let number = CUBE_POS as u32 * UNITS + UNIT_POS;
    if number < numbers {
        into[(first + number) as usize] = from[number as usize];
    }
}

/// Copies all numbers of each tensor to the one at the same place of `into`, which has the same order of numbers in memory,
/// without gaps.
pub(super) fn copy_each(from: &[CubeTensor], into: &[CubeTensor]) {
    let Some(first) = from.first() else { return };
    let most = together(first, 2);
    for (from, into) in from.chunks(most).zip(into.chunks(most)) {
        let (lengths, firsts, cubes) = cubes_of(from);
        copy_together::launch(
            &first.client,
            cubes,
            CubeDim::new_1d(UNITS),
            from.iter().map(flat).collect(),
            into.iter().map(flat).collect(),
            lengths,
            firsts,
        );
    }
}

#[cube(launch)]
fn copy_together(
    from: &Sequence<OwnedTensor<f32>>,
    into: &mut Sequence<OwnedTensor<f32>>,
    lengths: &Sequence<u32>,
    firsts: &Sequence<u32>,
) {
    let cube = CUBE_POS as u32;
    #[unroll]
    for tensor in 0..comptime![from.len()] {
        let (length, first) = (*lengths.index(tensor), *firsts.index(tensor));
        if cube >= first && (cube - first) * CHUNK < length {
            let begin = (cube - first) * CHUNK;
            for row in 0..comptime![CHUNK / UNITS] {
                let place = begin + row * UNITS + UNIT_POS;
                if place < length {
                    into.index_mut(tensor)[place as usize] = from.index(tensor)[place as usize];
                }
            }
        }
    }
}
