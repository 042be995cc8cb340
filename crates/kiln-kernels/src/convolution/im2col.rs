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

/// Writes `image`, `[channels, height, width]`, into the columns `from..` of `columns`, for some lines of the output.
///
/// `columns` has a row for each `(channel, kernel row, kernel column)`, each row `width` long; a column
/// holds what the kernel sees at one output position. Positions outside the image are zeros.
pub(super) fn image_to_columns(
    geometry: &Geometry,
    image: &[f32],
    lines: Range<usize>,
    columns: &mut [f32],
    width: usize,
    from: usize,
) {
    let used = from..from + lines.len() * geometry.size_out[1];
    for (tap, seen) in taps(geometry, &lines) {
        let rows = columns
            .chunks_exact_mut(width)
            .skip(tap)
            .step_by(geometry.taps());
        for (row, channel) in rows.zip(image.chunks_exact(geometry.channel_len())) {
            let row = &mut row[used.clone()];
            if geometry.keeps_width() {
                seen.copy_shifted(channel, row);
            } else {
                seen.copy_strided(channel, row);
            }
        }
    }
}

/// The transpose of [`image_to_columns`] for all lines: adds each column back to the pixels that it came from.
pub(super) fn add_columns_to_image(
    geometry: &Geometry,
    columns: &[f32],
    width: usize,
    from: usize,
    image: &mut [f32],
) {
    let used = from..from + geometry.positions();
    for (tap, seen) in taps(geometry, &(0..geometry.size_out[0])) {
        let rows = columns
            .chunks_exact(width)
            .skip(tap)
            .step_by(geometry.taps());
        for (row, channel) in rows.zip(image.chunks_exact_mut(geometry.channel_len())) {
            seen.add_strided(channel, &row[used.clone()]);
        }
    }
}

/// Each tap of the kernel with its index and what it sees, which is the same in all channels.
fn taps(geometry: &Geometry, lines: &Range<usize>) -> impl Iterator<Item = (usize, Seen)> {
    let columns = geometry.kernel[1];
    (0..geometry.taps()).map(move |tap| {
        let seen = Seen::new(geometry, [tap / columns, tap % columns], lines);
        (tap, seen)
    })
}

/// What one tap of the kernel sees of a channel, over some lines of the output.
struct Seen {
    /// The lines among those asked for whose input is inside the image, counted from the first asked for.
    lines: Range<usize>,
    /// The outputs of a line whose input is inside the image.
    inside: Range<usize>,
    /// The index of the input of the first of these outputs.
    first_input: usize,
    stride: usize,
    width_in: usize,
    width_out: usize,
}

impl Seen {
    fn new(geometry: &Geometry, tap: [usize; 2], lines: &Range<usize>) -> Self {
        let Geometry {
            size_in: [height_in, width_in],
            size_out: [height_out, width_out],
            stride,
            padding,
            ..
        } = *geometry;
        let rows = covered(tap[0], padding.top, stride, height_in, height_out);
        let start = rows.start.clamp(lines.start, lines.end);
        let end = rows.end.clamp(start, lines.end);
        let inside = covered(tap[1], padding.left, stride, width_in, width_out);
        let first_row = (start * stride + tap[0]).saturating_sub(padding.top);
        let first_column = (inside.start * stride + tap[1]).saturating_sub(padding.left);
        Self {
            lines: start - lines.start..end - lines.start,
            first_input: first_row * width_in + first_column,
            inside,
            stride,
            width_in,
            width_out,
        }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() || self.inside.is_empty()
    }

    /// For stride 1 and lines that keep their length: the whole channel moves by one offset, and what came
    /// round the left and right edges is set to zero.
    fn copy_shifted(&self, channel: &[f32], row: &mut [f32]) {
        if self.is_empty() {
            return row.fill(0.0);
        }
        let width = self.width_out;
        row[..self.lines.start * width].fill(0.0);
        row[self.lines.end * width..].fill(0.0);
        // From the first output inside to the last one.
        let start = self.lines.start * width + self.inside.start;
        let end = (self.lines.end - 1) * width + self.inside.end;
        let input = &channel[self.first_input..self.first_input + (end - start)];
        row[start..end].copy_from_slice(input);
        for edge in (0..self.inside.start).chain(self.inside.end..width) {
            let column = row[self.lines.start * width + edge..].iter_mut();
            for value in column.step_by(width).take(self.lines.len()) {
                *value = 0.0;
            }
        }
    }

    fn copy_strided(&self, channel: &[f32], row: &mut [f32]) {
        row.fill(0.0);
        self.for_each_line(|outputs, first_input| {
            let inputs = channel[first_input..].iter().step_by(self.stride);
            for (output, input) in row[outputs].iter_mut().zip(inputs) {
                *output = *input;
            }
        });
    }

    fn add_strided(&self, channel: &mut [f32], row: &[f32]) {
        self.for_each_line(|outputs, first_input| {
            let inputs = channel[first_input..].iter_mut().step_by(self.stride);
            for (output, input) in row[outputs].iter().zip(inputs) {
                *input += *output;
            }
        });
    }

    /// Calls `line` with the outputs inside and the index of the first one's input, line by line.
    fn for_each_line(&self, mut line: impl FnMut(Range<usize>, usize)) {
        if self.is_empty() {
            return;
        }
        for (index, y) in self.lines.clone().enumerate() {
            let from = y * self.width_out;
            let first_input = self.first_input + index * self.stride * self.width_in;
            line(
                from + self.inside.start..from + self.inside.end,
                first_input,
            );
        }
    }
}
