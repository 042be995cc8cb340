//! Numbers into memory that exists already.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::UNITS;
use super::arguments::{flat, number};
use super::update::grid;

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
