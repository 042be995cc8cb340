//! Laying an image out as the matrix that turns its convolution into a product (`im2col`, Chellapilla et al. 2006).

use std::ops::Range;

use super::Geometry;

/// The outputs along one axis whose input lies inside the image, for one tap of the kernel.
fn covered(
    tap: usize,
    near: usize,
    stride: usize,
    size_in: usize,
    size_out: usize,
) -> Range<usize> {
    let start = near.saturating_sub(tap).div_ceil(stride);
    let end = (size_in + near).saturating_sub(tap).div_ceil(stride);
    start.min(size_out)..end.clamp(start.min(size_out), size_out)
}

/// Writes `image`, `[channels, height, width]`, into the columns `from..` of `columns`.
///
/// `columns` has a row for each `(channel, kernel row, kernel column)`, each row `width` long; a column
/// holds what the kernel sees at one output position. Positions outside the image are zeros.
pub(super) fn image_to_columns(
    geometry: &Geometry,
    image: &[f32],
    columns: &mut [f32],
    width: usize,
    from: usize,
) {
    let [height_in, width_in] = geometry.size_in;
    let positions = geometry.positions();
    let mut rows = columns.chunks_exact_mut(width);
    for channel in image.chunks_exact(height_in * width_in) {
        for tap_y in 0..geometry.kernel[0] {
            for tap_x in 0..geometry.kernel[1] {
                let Some(row) = rows.next() else { return };
                let row = &mut row[from..from + positions];
                if geometry.keeps_width() {
                    shifted_channel(geometry, channel, row, tap_y, tap_x);
                } else {
                    strided_channel(geometry, channel, row, tap_y, tap_x);
                }
            }
        }
    }
}

/// For stride 1 and rows that keep their length: the whole channel moves by one offset, and what came round
/// the left and right edges is set to zero.
fn shifted_channel(
    geometry: &Geometry,
    channel: &[f32],
    row: &mut [f32],
    tap_y: usize,
    tap_x: usize,
) {
    let [height, width] = geometry.size_in;
    let padding = geometry.padding;
    let lines = covered(tap_y, padding.top, 1, height, geometry.size_out[0]);
    let inside = covered(tap_x, padding.left, 1, width, width);
    row[..lines.start * width].fill(0.0);
    row[lines.end * width..].fill(0.0);
    if lines.is_empty() {
        return;
    }
    if inside.is_empty() {
        row.fill(0.0);
        return;
    }
    // From the first covered output to the last one.
    let outputs = lines.start * width + inside.start..(lines.end - 1) * width + inside.end;
    let first_input =
        (lines.start + tap_y - padding.top) * width + inside.start + tap_x - padding.left;
    row[outputs.clone()].copy_from_slice(&channel[first_input..first_input + outputs.len()]);
    if inside.len() < width {
        for line in row[lines.start * width..lines.end * width].chunks_exact_mut(width) {
            line[..inside.start].fill(0.0);
            line[inside.end..].fill(0.0);
        }
    }
}

fn strided_channel(
    geometry: &Geometry,
    channel: &[f32],
    row: &mut [f32],
    tap_y: usize,
    tap_x: usize,
) {
    row.fill(0.0);
    for_each_covered_line(geometry, tap_y, tap_x, |outputs, inputs_start| {
        let inputs = channel[inputs_start..].iter().step_by(geometry.stride);
        for (output, input) in row[outputs].iter_mut().zip(inputs) {
            *output = *input;
        }
    });
}

/// The transpose of [`image_to_columns`]: adds each column back to the pixels that it came from.
pub(super) fn add_columns_to_image(
    geometry: &Geometry,
    columns: &[f32],
    width: usize,
    from: usize,
    image: &mut [f32],
) {
    let [height_in, width_in] = geometry.size_in;
    let positions = geometry.positions();
    let mut rows = columns.chunks_exact(width);
    for channel in image.chunks_exact_mut(height_in * width_in) {
        for tap_y in 0..geometry.kernel[0] {
            for tap_x in 0..geometry.kernel[1] {
                let Some(row) = rows.next() else { return };
                let row = &row[from..from + positions];
                for_each_covered_line(geometry, tap_y, tap_x, |outputs, inputs_start| {
                    let inputs = channel[inputs_start..].iter_mut().step_by(geometry.stride);
                    for (output, input) in row[outputs].iter().zip(inputs) {
                        *input += *output;
                    }
                });
            }
        }
    }
}

/// Calls `line` with the range of outputs and the index of the first input, for every output row that one
/// tap of the kernel sees.
fn for_each_covered_line(
    geometry: &Geometry,
    tap_y: usize,
    tap_x: usize,
    mut line: impl FnMut(Range<usize>, usize),
) {
    let Geometry {
        size_in: [height_in, width_in],
        size_out: [height_out, width_out],
        stride,
        padding,
        ..
    } = *geometry;
    let inside = covered(tap_x, padding.left, stride, width_in, width_out);
    if inside.is_empty() {
        return;
    }
    for y in covered(tap_y, padding.top, stride, height_in, height_out) {
        let input_y = y * stride + tap_y - padding.top;
        let input_x = inside.start * stride + tap_x - padding.left;
        line(
            y * width_out + inside.start..y * width_out + inside.end,
            input_y * width_in + input_x,
        );
    }
}
