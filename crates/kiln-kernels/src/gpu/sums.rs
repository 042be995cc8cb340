//! Sums over the positions of images, and over rows.

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::UNITS;
use super::arguments::{flat, memory, vector_width};

/// Vectors of channels that a cube reads side by side.
const COLUMNS: u32 = if UNITS < 32 { UNITS } else { 32 };

/// `[images, channels]` of `[images, .., channels]`: the sums over the positions of each image.
pub(super) fn sum_of_positions(tensor: &CubeTensor) -> CubeTensor {
    let shape = tensor.shape();
    let (images, channels) = (shape[0], shape[shape.num_dims() - 1]);
    let positions = shape.num_elements() / (images * channels).max(1);
    let sums = memory(tensor, [images, channels]);
    let width = vector_width(channels);

    over_positions::launch(
        &tensor.client,
        CubeCount::Static(
            ((channels / width) as u32).div_ceil(COLUMNS),
            images as u32,
            1,
        ),
        CubeDim::new_1d(UNITS),
        width,
        flat(tensor),
        flat(&sums),
        positions as u32,
        (channels / width) as u32,
    );

    sums
}

/// `[channels]` of `[rows, channels]`.
pub(super) fn sum_of_rows(tensor: &CubeTensor) -> CubeTensor {
    let shape = tensor.shape();
    let (rows, channels) = (shape[0], shape[1]);
    let sum = memory(tensor, [channels]);

    over_rows::launch(
        &tensor.client,
        CubeCount::Static((channels as u32).div_ceil(64), 1, 1),
        CubeDim::new_1d(64),
        flat(tensor),
        flat(&sum),
        rows as u32,
        channels as u32,
    );

    sum
}

#[cube(launch)]
fn over_positions<N: Size>(
    numbers: &Tensor<Vector<f32, N>>,
    sums: &mut Tensor<Vector<f32, N>>,
    positions: u32,
    channels: u32,
) {
    let rows = comptime![UNITS / COLUMNS];
    let row = UNIT_POS / COLUMNS;
    let channel = CUBE_POS_X * COLUMNS + UNIT_POS % COLUMNS;
    let image = CUBE_POS_Y;
    let mut sum = Vector::<f32, N>::new(0.0f32);
    // The last cube may have more units than channels are left.
    let mut position = select(channel < channels, row, positions);
    while position < positions {
        sum += numbers[((image * positions + position) * channels + channel) as usize];
        position += rows;
    }
    let mut of_rows = Shared::<[Vector<f32, N>]>::new_slice(comptime![UNITS as usize]);
    of_rows[UNIT_POS as usize] = sum;
    sync_cube();
    if row == 0u32 && channel < channels {
        let mut other = UNIT_POS + COLUMNS;
        while other < UNITS {
            sum += of_rows[other as usize];
            other += COLUMNS;
        }
        sums[(image * channels + channel) as usize] = sum;
    }
}

#[cube(launch)]
fn over_rows(numbers: &Tensor<f32>, sum: &mut Tensor<f32>, rows: u32, channels: u32) {
    let channel = CUBE_POS_X * CUBE_DIM_X + UNIT_POS;
    if channel < channels {
        let mut total = 0.0f32;
        let mut row = 0u32;
        while row < rows {
            total += numbers[(row * channels + channel) as usize];
            row += 1;
        }
        sum[channel as usize] = total;
    }
}
