//! Landmarks: real images made worse, and the pixels themselves.

use kiln::pictures::Images;
use kiln_eval::{EvalError, Features};

/// Replaces every pixel by the mean of the 3x3 pixels around it, within the image: a landmark for the distance of a
/// small flaw.
pub fn blurred(images: &Images) -> Images {
    let (height, width) = (images.height(), images.width());
    let mut blurred = Images::empty(images.channels(), height, width);
    for image in images.iter() {
        let mut values = Vec::with_capacity(image.len());
        for plane in image.chunks((height * width).max(1)) {
            for place in 0..plane.len() {
                let (row, column) = (place / width, place % width);
                let rows = row.saturating_sub(1)..(row + 2).min(height);
                let around = rows.flat_map(|row| {
                    let columns = column.saturating_sub(1)..(column + 2).min(width);
                    columns.filter_map(move |column| plane.get(row * width + column))
                });
                let (sum, count) = around.fold((0.0, 0.0), |(sum, count), &value| {
                    (sum + value, count + 1.0)
                });
                values.push(sum / count);
            }
        }
        blurred.extend(&values);
    }
    blurred
}

/// The pixels themselves as features.
///
/// # Errors
/// [`EvalError::Features`] for pixels that are not finite.
pub fn pixels_of(images: &Images) -> Result<Features, EvalError> {
    Features::new(images.values().to_vec(), images.image_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blurring_spreads_a_dot_and_keeps_flat_images() {
        let mut images = Images::empty(1, 3, 3);
        images.extend(&[0.5; 9]);
        images.extend(&[0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
        let blurred = blurred(&images);
        let rows: Vec<&[f32]> = blurred.iter().collect();
        assert_eq!(rows[0], [0.5; 9]);
        // Nine pixels around the centre, six around an edge's, four around a corner's.
        assert_eq!(rows[1], [2.25, 1.5, 2.25, 1.5, 1.0, 1.5, 2.25, 1.5, 2.25]);
    }
}
