//! The gradients of a convolution.

use rayon::prelude::*;

use super::forward::{convolve, images_to_columns};
use super::im2col::add_columns_to_image;
use super::{Geometry, Padding, padded_width};
use crate::product::{Destination, Matrix, multiply};
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
    let taps = geometry.kernel[0] * geometry.kernel[1];
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
    let sums: Vec<Vec<f32>> = input
        .par_chunks(part * geometry.input_len())
        .zip(gradient.par_chunks(part * geometry.output_len()))
        .map(|(input, gradient)| weight_gradient_of_part(geometry, input, gradient))
        .collect();
    sums.into_iter()
        .reduce(|mut total, part| {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
            total
        })
        .unwrap_or_default()
}

fn weight_gradient_of_part(geometry: &Geometry, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let images = geometry.images_per_product();
    let (patch, channels) = (geometry.patch(), geometry.channels_out);
    let mut sum = vec![0.0; channels * patch];
    for (input, gradient) in input
        .chunks(images * geometry.input_len())
        .zip(gradient.chunks(images * geometry.output_len()))
    {
        let width = padded_width(geometry, input.len() / geometry.input_len());
        with_scratch((patch + channels) * width, |scratch| {
            let (columns, gathered) = scratch.split_at_mut(patch * width);
            images_to_columns(geometry, input, columns, width);
            gather_channels(geometry, gradient, gathered, width);
            multiply(
                &mut sum,
                Destination::Accumulated,
                Matrix::new(gathered, channels, width),
                Matrix::new(columns, patch, width).transposed(),
            );
        });
    }
    sum
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
    let sums: Vec<f32> = gradient
        .par_chunks(positions)
        .map(crate::normalisation::sum)
        .collect();
    let mut total = vec![0.0; geometry.channels_out];
    for image in sums.chunks_exact(geometry.channels_out) {
        for (total, sum) in total.iter_mut().zip(image) {
            *total += sum;
        }
    }
    total
}
