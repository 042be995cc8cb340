//! The gradients of a convolution.

use rayon::prelude::*;

use super::forward::{convolve, images_to_columns};
use super::im2col::{add_columns_to_image, image_to_columns};
use super::{Geometry, Padding, padded_width};
use crate::product::{Destination, Matrix, multiply};
use crate::reduction::{sum, sum_of_rows};
use crate::scratch::with_scratch;

/// The batch is cut into at most this many parts for the weights' gradient, whatever the number of threads: its
/// sum is then always taken in the same order.
const PARTS: usize = 16;

/// The gradient of the input, `[batch, channels_in, height, width]`, from that of the output.
pub(crate) fn input_gradient(geometry: &Geometry, weight: &[f32], gradient: &[f32]) -> Vec<f32> {
    match mirrored(geometry) {
        Some(mirrored) => convolve(
            &mirrored,
            gradient,
            &mirrored_weight(geometry, weight),
            None,
        ),
        None => scattered_input_gradient(geometry, weight, gradient),
    }
}

/// The convolution of stride 1 that takes the output's gradient to the input's.
fn mirrored(geometry: &Geometry) -> Option<Geometry> {
    let [kernel_height, kernel_width] = geometry.kernel;
    let padding = Padding {
        top: (kernel_height - 1).checked_sub(geometry.padding.top)?,
        bottom: (kernel_height - 1).checked_sub(geometry.padding.bottom)?,
        left: (kernel_width - 1).checked_sub(geometry.padding.left)?,
        right: (kernel_width - 1).checked_sub(geometry.padding.right)?,
    };
    (geometry.stride == 1).then_some(Geometry {
        channels_in: geometry.channels_out,
        channels_out: geometry.channels_in,
        padding,
        size_in: geometry.size_out,
        size_out: geometry.size_in,
        ..*geometry
    })
}

/// `[channels_in, channels_out, kernel]`, with the kernel turned by half a circle.
fn mirrored_weight(geometry: &Geometry, weight: &[f32]) -> Vec<f32> {
    let taps = geometry.taps();
    let mut mirrored = Vec::with_capacity(weight.len());
    for channel_in in 0..geometry.channels_in {
        for channel_out in 0..geometry.channels_out {
            let from = (channel_out * geometry.channels_in + channel_in) * taps;
            mirrored.extend(weight[from..from + taps].iter().rev());
        }
    }
    mirrored
}

/// For strides above 1: the gradients of all patches are one product, and are added up where patches overlap.
fn scattered_input_gradient(geometry: &Geometry, weight: &[f32], gradient: &[f32]) -> Vec<f32> {
    let batch = gradient.len() / geometry.output_len();
    let images = geometry.images_per_product();
    let patch = geometry.patch();
    let mut result = vec![0.0; batch * geometry.input_len()];
    result
        .par_chunks_mut(images * geometry.input_len())
        .zip(gradient.par_chunks(images * geometry.output_len()))
        .for_each(|(result, gradient)| {
            let width = padded_width(geometry, gradient.len() / geometry.output_len());
            with_scratch((patch + geometry.channels_out) * width, |scratch| {
                let (columns, gathered) = scratch.split_at_mut(patch * width);
                gather_channels(geometry, gradient, gathered, width);
                multiply(
                    columns,
                    width,
                    Destination::Overwritten,
                    Matrix::new(weight, geometry.channels_out, patch).transposed(),
                    Matrix::new(gathered, geometry.channels_out, width),
                );
                for (index, image) in result.chunks_exact_mut(geometry.input_len()).enumerate() {
                    add_columns_to_image(
                        geometry,
                        columns,
                        width,
                        index * geometry.positions(),
                        image,
                    );
                }
            });
        });
    result
}

/// The gradient of the weights, `[channels_out, channels_in, kernel]`.
pub(crate) fn weight_gradient(geometry: &Geometry, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let batch = input.len() / geometry.input_len();
    let images = geometry.images_per_product();
    let products = batch.div_ceil(images);
    let part = products.div_ceil(PARTS) * images;
    let (patch, channels) = (geometry.patch(), geometry.channels_out);
    let mut sums = vec![0.0; batch.div_ceil(part) * patch * channels];
    sums.par_chunks_mut(patch * channels)
        .zip(input.par_chunks(part * geometry.input_len()))
        .zip(gradient.par_chunks(part * geometry.output_len()))
        .for_each(|((sum, input), gradient)| {
            add_weight_gradient_of_part(geometry, input, gradient, sum)
        });
    let transposed = sum_of_rows(&sums, patch * channels);
    let mut result = Vec::with_capacity(patch * channels);
    for channel in 0..channels {
        result.extend(transposed[channel..].iter().step_by(channels));
    }
    result
}

/// Adds the gradient over some images to `sum`, transposed: `[channels_in * kernel, channels_out]`.
///
/// So the factor that the product has to turn round before it can read whole vectors is the output's gradient,
/// and not the columns, which are several times larger.
fn add_weight_gradient_of_part(
    geometry: &Geometry,
    input: &[f32],
    gradient: &[f32],
    sum: &mut [f32],
) {
    let images = geometry.images_per_product();
    for (input, gradient) in input
        .chunks(images * geometry.input_len())
        .zip(gradient.chunks(images * geometry.output_len()))
    {
        if images == 1 {
            add_weight_gradient_of_image(geometry, input, gradient, sum);
        } else {
            add_weight_gradient_of_group(geometry, input, gradient, sum);
        }
    }
}

fn add_weight_gradient_of_image(
    geometry: &Geometry,
    input: &[f32],
    gradient: &[f32],
    sum: &mut [f32],
) {
    let (patch, channels) = (geometry.patch(), geometry.channels_out);
    let (positions, line) = (geometry.positions(), geometry.size_out[1]);
    for lines in geometry.blocks_of_lines() {
        let from = lines.start * line;
        let width = lines.len() * line;
        with_scratch(patch * width, |columns| {
            image_to_columns(geometry, input, lines, columns, width, 0);
            multiply(
                sum,
                channels,
                Destination::Accumulated,
                Matrix::new(columns, patch, width),
                Matrix::part(&gradient[from..], channels, width, positions).transposed(),
            );
        });
    }
}

fn add_weight_gradient_of_group(
    geometry: &Geometry,
    input: &[f32],
    gradient: &[f32],
    sum: &mut [f32],
) {
    let (patch, channels) = (geometry.patch(), geometry.channels_out);
    let width = padded_width(geometry, input.len() / geometry.input_len());
    with_scratch((patch + channels) * width, |scratch| {
        let (columns, gathered) = scratch.split_at_mut(patch * width);
        images_to_columns(geometry, input, columns, width);
        gather_channels(geometry, gradient, gathered, width);
        multiply(
            sum,
            channels,
            Destination::Accumulated,
            Matrix::new(columns, patch, width),
            Matrix::new(gathered, channels, width).transposed(),
        );
    });
}

/// `[images, channels, positions]` to `[channels, images, positions]`, each row filled up to `width` with zeros.
fn gather_channels(geometry: &Geometry, gradient: &[f32], gathered: &mut [f32], width: usize) {
    let positions = geometry.positions();
    let used = gradient.len() / geometry.channels_out;
    for (channel, row) in gathered.chunks_exact_mut(width).enumerate() {
        let images = gradient.chunks_exact(geometry.output_len());
        for (values, image) in row.chunks_exact_mut(positions).zip(images) {
            values.copy_from_slice(&image[channel * positions..(channel + 1) * positions]);
        }
        row[used..].fill(0.0);
    }
}

/// The gradient of the bias, `[channels_out]`: the sum over images and positions.
pub(crate) fn bias_gradient(geometry: &Geometry, gradient: &[f32]) -> Vec<f32> {
    let positions = geometry.positions();
    let sums: Vec<f32> = gradient.par_chunks(positions).map(sum).collect();
    sum_of_rows(&sums, geometry.channels_out)
}
