//! Resizes images to the network's size.

/// Resizes images `[batch, channels, height, width]`, gray or RGB, to channels-last RGB, `[batch, rows, columns, 3]`.
///
/// Bilinearly, with pixels as squares and without antialiasing: PyTorch's `interpolate(mode="bilinear",
/// align_corners=False)`, as in pytorch-fid. (Resizing as in the original TensorFlow code differs, as clean-fid's
/// authors found: Parmar et al. 2022.)
pub(super) fn channels_last(
    images: &[f32],
    [channels, height, width]: [usize; 3],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let (rows, columns) = (places(height, rows), places(width, columns));
    let mut resized = Vec::with_capacity(
        images.len() / (channels * height * width).max(1) * rows.len() * columns.len() * 3,
    );
    for image in images.chunks_exact(channels * height * width) {
        for row in &rows {
            for column in &columns {
                for channel in 0..3 {
                    // A gray image uses its one channel for all three.
                    let plane = &image[channel % channels * height * width..];
                    let at = |row: usize, column: usize| plane[row * width + column];
                    let line = |row| column.mix(at(row, column.first), at(row, column.second));
                    resized.push(row.mix(line(row.first), line(row.second)));
                }
            }
        }
    }
    resized
}

/// A place between two pixels.
struct Place {
    first: usize,
    second: usize,
    /// The second one's share.
    share: f32,
}

impl Place {
    fn mix(&self, first: f32, second: f32) -> f32 {
        first * (1.0 - self.share) + second * self.share
    }
}

/// The position of each of `new` pixels among `old` ones. `old` is not 0.
fn places(old: usize, new: usize) -> Vec<Place> {
    let step = old as f32 / new as f32;
    let place = |pixel: usize| {
        let position = ((pixel as f32 + 0.5) * step - 0.5).max(0.0);
        let first = (position as usize).min(old - 1);
        Place {
            first,
            second: (first + 1).min(old - 1),
            share: position - first as f32,
        }
    };
    (0..new).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32], columns: usize) -> Vec<f32> {
        let resized = channels_last(values, [1, 1, values.len()], [1, columns]);
        resized.chunks(3).map(|pixel| pixel[0]).collect()
    }

    /// `torch.nn.functional.interpolate(.., mode="bilinear", align_corners=False)` of the same rows.
    #[test]
    fn rows_are_resized_as_pytorch_does() {
        assert_eq!(row(&[0.0, 4.0], 4), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(row(&[0.0, 1.0, 2.0, 3.0], 2), [0.5, 2.5]);
        assert_eq!(row(&[5.0, 7.0, 1.0], 3), [5.0, 7.0, 1.0]);
        let uneven = row(&[0.0, 3.0, 6.0], 5);
        for (value, expected) in uneven.iter().zip([0.0, 1.2, 3.0, 4.8, 6.0]) {
            assert!((value - expected).abs() < 1e-6, "{uneven:?}");
        }
    }

    #[test]
    fn channels_go_last_and_gray_becomes_rgb() {
        let rgb = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(
            channels_last(&rgb, [3, 1, 2], [1, 2]),
            [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]
        );
        assert_eq!(
            channels_last(&[7.0, 8.0], [1, 1, 1], [1, 1]),
            [7.0, 7.0, 7.0, 8.0, 8.0, 8.0]
        );
    }
}
