//! Small random shifts, rotations and changes of size, so that a classifier does not memorise its images.

use kiln_diffusion::noise;

use crate::experiment::Augmentation;

/// Black, the surroundings of a digit.
const BLACK: f32 = -1.0;

/// Distorts one image, `side` x `side` pixels in [-1, 1], in place: turned by a random angle, stretched along each axis,
/// shifted, and read between pixels bilinearly.
///
/// Seed, slot of the batch and step determine the random numbers, so a resumed run sees the same distortions.
pub(crate) fn distort(
    image: &mut [f32],
    side: usize,
    augmentation: Augmentation,
    seed: u64,
    slot: u64,
    step: u64,
) {
    if augmentation == Augmentation::default() {
        return;
    }
    let drawn = noise::normal(seed, slot, step, 5);
    let [angle, scale_x, scale_y, shift_x, shift_y] = std::array::from_fn(|index| {
        let deviation = match index {
            0 => augmentation.rotation.to_radians(),
            1 | 2 => augmentation.scale,
            _ => augmentation.shift,
        };
        deviation * f64::from(drawn.get(index).copied().unwrap_or_default())
    });
    let (sine, cosine) = angle.sin_cos();
    let (stretch_x, stretch_y) = (scale_x.exp(), scale_y.exp());
    let centre = (side as f64 - 1.0) / 2.0;
    let original = image.to_vec();
    for (place, pixel) in image.iter_mut().enumerate() {
        let (y, x) = (
            (place / side) as f64 - centre,
            (place % side) as f64 - centre,
        );
        let source_x = (cosine * x + sine * y) * stretch_x + centre + shift_x;
        let source_y = (cosine * y - sine * x) * stretch_y + centre + shift_y;
        *pixel = between_pixels(&original, side, source_x, source_y);
    }
}

/// The image's value at a position between its pixels; black outside.
fn between_pixels(image: &[f32], side: usize, x: f64, y: f64) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, lower_share) = ((x - left) as f32, (y - top) as f32);
    let at = |x: f64, y: f64| {
        let inside = 0.0..side as f64;
        let place = y as usize * side + x as usize;
        let pixel = (inside.contains(&x) && inside.contains(&y)).then(|| image.get(place));
        pixel.flatten().copied().unwrap_or(BLACK)
    };
    let row = |y| at(left, y) * (1.0 - right_share) + at(left + 1.0, y) * right_share;
    row(top) * (1.0 - lower_share) + row(top + 1.0) * lower_share
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 9;

    /// A white dot in a black image.
    fn dot(x: usize, y: usize) -> Vec<f32> {
        let mut image = vec![BLACK; SIDE * SIDE];
        image[y * SIDE + x] = 1.0;
        image
    }

    #[test]
    fn no_distortion_changes_nothing_and_each_draw_changes_something() {
        let original = dot(3, 4);
        let mut image = original.clone();
        distort(&mut image, SIDE, Augmentation::default(), 0, 0, 0);
        assert_eq!(image, original);
        let augmentation = Augmentation {
            shift: 1.0,
            ..Augmentation::default()
        };
        let distorted = |slot, step| {
            let mut image = original.clone();
            distort(&mut image, SIDE, augmentation, 0, slot, step);
            image
        };
        assert_eq!(distorted(1, 2), distorted(1, 2));
        assert_ne!(distorted(1, 2), distorted(2, 2));
        assert_ne!(distorted(1, 2), distorted(1, 3));
    }

    #[test]
    fn between_pixels_is_bilinear_and_black_outside() {
        let image = dot(3, 4);
        assert_eq!(between_pixels(&image, SIDE, 3.0, 4.0), 1.0);
        assert_eq!(between_pixels(&image, SIDE, 3.5, 4.0), 0.0);
        assert_eq!(
            between_pixels(&image, SIDE, 2.75, 4.5),
            0.75 * 0.5 * 2.0 - 1.0
        );
        for (x, y) in [(-1.0, 4.0), (3.0, 9.5), (-50.0, 1e9)] {
            assert_eq!(between_pixels(&image, SIDE, x, y), BLACK);
        }
    }

    #[test]
    fn turning_keeps_the_centre_and_pixels_stay_in_their_range() {
        let augmentation = Augmentation {
            shift: 0.0,
            rotation: 40.0,
            scale: 0.2,
        };
        for slot in 0..20 {
            let mut image = dot(4, 4);
            distort(&mut image, SIDE, augmentation, 1, slot, 0);
            assert!((image[4 * SIDE + 4] - 1.0).abs() < 1e-4);
            assert!(image.iter().all(|pixel| (-1.0..=1.0001).contains(pixel)));
        }
    }
}
