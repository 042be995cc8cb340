//! The output of a convolution.

use rayon::prelude::*;

use super::im2col::image_to_columns;
use super::{Geometry, padded_width};
use crate::product::{Destination, Matrix, multiply};
use crate::scratch::with_scratch;

/// `out[o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] * input[c, s y + i - top, s x + j - left]`
///
/// for each image of `input`, `[batch, channels_in, height, width]`. The result is `[batch, channels_out, ..]`.
pub(crate) fn convolve(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let batch = input.len() / geometry.input_len();
    let images = geometry.images_per_product();
    let mut output = vec![0.0; batch * geometry.output_len()];
    output
        .par_chunks_mut(images * geometry.output_len())
        .zip(input.par_chunks(images * geometry.input_len()))
        .for_each(|(output, input)| {
            if images == 1 {
                convolve_image(geometry, input, weight, bias, output);
            } else {
                convolve_group(geometry, input, weight, bias, output);
            }
        });
    output
}

/// One large image: its products land where they belong.
fn convolve_image(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let (positions, patch) = (geometry.positions(), geometry.patch());
    let before = match bias {
        Some(bias) => {
            for (channel, bias) in output.chunks_exact_mut(positions).zip(bias) {
                channel.fill(*bias);
            }
            Destination::Accumulated
        }
        None => Destination::Overwritten,
    };
    let weight = Matrix::new(weight, geometry.channels_out, patch);
    if geometry.is_pointwise() {
        let input = Matrix::new(input, patch, positions);
        return multiply(output, positions, before, weight, input);
    }
    for lines in geometry.blocks_of_lines() {
        let from = lines.start * geometry.size_out[1];
        let width = lines.len() * geometry.size_out[1];
        with_scratch(patch * width, |columns| {
            image_to_columns(geometry, input, lines, columns, width, 0);
            let columns = Matrix::new(columns, patch, width);
            multiply(&mut output[from..], positions, before, weight, columns);
        });
    }
}

/// Several small images: their product is computed aside, and each fetches its part.
fn convolve_group(
    geometry: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let images = input.len() / geometry.input_len();
    let (positions, patch) = (geometry.positions(), geometry.patch());
    let width = padded_width(geometry, images);
    with_scratch((patch + geometry.channels_out) * width, |scratch| {
        let (columns, product) = scratch.split_at_mut(patch * width);
        images_to_columns(geometry, input, columns, width);
        multiply(
            product,
            width,
            Destination::Overwritten,
            Matrix::new(weight, geometry.channels_out, patch),
            Matrix::new(columns, patch, width),
        );
        for (index, image) in output.chunks_exact_mut(geometry.output_len()).enumerate() {
            for (channel, values) in image.chunks_exact_mut(positions).enumerate() {
                let from = channel * width + index * positions;
                let bias = bias.map_or(0.0, |bias| bias[channel]);
                for (value, sum) in values.iter_mut().zip(&product[from..from + positions]) {
                    *value = sum + bias;
                }
            }
        }
    });
}

/// The matrices of columns of several images side by side, each row filled up to `width` with zeros.
pub(super) fn images_to_columns(
    geometry: &Geometry,
    input: &[f32],
    columns: &mut [f32],
    width: usize,
) {
    let mut used = 0;
    for image in input.chunks_exact(geometry.input_len()) {
        let lines = 0..geometry.size_out[0];
        image_to_columns(geometry, image, lines, columns, width, used);
        used += geometry.positions();
    }
    if used < width {
        for row in columns.chunks_exact_mut(width) {
            row[used..].fill(0.0);
        }
    }
}
