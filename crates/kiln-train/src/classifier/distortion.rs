//! Small random changes of images, so that a classifier does not memorise them.

use kiln_diffusion::noise;

use crate::experiment::Augmentation;

/// Black, the surroundings of a digit.
const BLACK: f32 = -1.0;
/// Middle gray hides a part of an image.
const GRAY: f32 = 0.0;

/// What is around an image, and moves into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surroundings {
    /// Black, as around a digit.
    Black,
    /// The pixels of the edge go on, as a photograph might.
    Edge,
}

/// How images of `side` x `side` pixels are changed.
///
/// Seed, slot of the batch and step determine the random numbers, so a resumed run sees the same changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distortion {
    pub(crate) augmentation: Augmentation,
    pub(crate) surroundings: Surroundings,
    pub(crate) side: usize,
    pub(crate) seed: u64,
}

impl Distortion {
    /// Changes one image, `[channels, side, side]` in [-1, 1], in place: its place, then its colours, then a part of it
    /// is hidden.
    pub(crate) fn apply(&self, image: &mut [f32], slot: u64, step: u64) {
        let Augmentation {
            shift,
            rotation,
            scale,
            colour,
            cutout,
        } = self.augmentation;
        let drawn = noise::normal(self.seed, slot, step, 8);
        let normal = |index: usize| f64::from(drawn.get(index).copied().unwrap_or_default());
        if [shift, rotation, scale] != [0.0; 3] {
            self.displace(image, std::array::from_fn(normal));
        }
        if colour > 0.0 {
            let [brightness, contrast, strength] =
                [5, 6, 7].map(|index| (colour * normal(index)) as f32);
            recolour(image, self.side, brightness, contrast.exp(), strength.exp());
        }
        if cutout > 0.0 {
            let uniform = |half| noise::uniform(self.seed, slot, 2 * step + half);
            self.hide(image, [uniform(0), uniform(1)]);
        }
    }

    /// Turned by a random angle, stretched along each axis, shifted, and read between pixels bilinearly.
    fn displace(&self, image: &mut [f32], drawn: [f64; 5]) {
        let side = self.side;
        let [angle, scale_x, scale_y, shift_x, shift_y] = std::array::from_fn(|index| {
            let deviation = match index {
                0 => self.augmentation.rotation.to_radians(),
                1 | 2 => self.augmentation.scale,
                _ => self.augmentation.shift,
            };
            deviation * drawn[index]
        });
        let (sine, cosine) = angle.sin_cos();
        let (stretch_x, stretch_y) = (scale_x.exp(), scale_y.exp());
        let centre = (side as f64 - 1.0) / 2.0;
        for plane in image.chunks_mut(side * side) {
            let original = plane.to_vec();
            for (place, pixel) in plane.iter_mut().enumerate() {
                let (y, x) = (
                    (place / side) as f64 - centre,
                    (place % side) as f64 - centre,
                );
                let source_x = (cosine * x + sine * y) * stretch_x + centre + shift_x;
                let source_y = (cosine * y - sine * x) * stretch_y + centre + shift_y;
                *pixel = self.between_pixels(&original, source_x, source_y);
            }
        }
    }

    /// The value of a plane at a position between its pixels.
    fn between_pixels(&self, plane: &[f32], x: f64, y: f64) -> f32 {
        let side = self.side;
        let (x, y) = match self.surroundings {
            Surroundings::Black => (x, y),
            Surroundings::Edge => {
                let last = side as f64 - 1.0;
                (x.clamp(0.0, last), y.clamp(0.0, last))
            }
        };
        let (left, top) = (x.floor(), y.floor());
        let (right_share, lower_share) = ((x - left) as f32, (y - top) as f32);
        let at = |x: f64, y: f64| {
            let inside = 0.0..side as f64;
            let place = y as usize * side + x as usize;
            let pixel = (inside.contains(&x) && inside.contains(&y)).then(|| plane.get(place));
            pixel.flatten().copied().unwrap_or(BLACK)
        };
        let row = |y| at(left, y) * (1.0 - right_share) + at(left + 1.0, y) * right_share;
        row(top) * (1.0 - lower_share) + row(top + 1.0) * lower_share
    }

    /// Hides a square, whose centre is at these shares of the image's sides.
    fn hide(&self, image: &mut [f32], [x, y]: [f64; 2]) {
        let side = self.side as f64;
        let half = self.augmentation.cutout * side / 2.0;
        let range = |centre: f64| {
            let first = (centre * side - half).round().max(0.0) as usize;
            first..((centre * side + half).round() as usize).min(self.side)
        };
        let (columns, rows) = (range(x), range(y));
        for plane in image.chunks_mut(self.side * self.side) {
            for row in plane
                .chunks_mut(self.side)
                .skip(rows.start)
                .take(rows.len())
            {
                row[columns.clone()].fill(GRAY);
            }
        }
    }
}

/// Moves all pixels by `brightness`, their differences from the image's mean by the factor `contrast`, and those of the
/// channels from the pixel's gray by the factor `strength`.
fn recolour(image: &mut [f32], side: usize, brightness: f32, contrast: f32, strength: f32) {
    let pixels = side * side;
    let channels = image.len() / pixels.max(1);
    let mean = image.iter().sum::<f32>() / image.len().max(1) as f32;
    for pixel in 0..pixels {
        let gray = (0..channels)
            .map(|channel| image[channel * pixels + pixel])
            .sum::<f32>();
        let gray = gray / channels.max(1) as f32;
        for channel in 0..channels {
            let value = &mut image[channel * pixels + pixel];
            let coloured = gray + (*value - gray) * strength;
            *value = (mean + (coloured - mean) * contrast + brightness).clamp(-1.0, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 9;

    fn distortion(augmentation: Augmentation) -> Distortion {
        Distortion {
            augmentation,
            surroundings: Surroundings::Black,
            side: SIDE,
            seed: 0,
        }
    }

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
        distortion(Augmentation::default()).apply(&mut image, 0, 0);
        assert_eq!(image, original);
        let none = Augmentation::default();
        for augmentation in [
            Augmentation { shift: 1.0, ..none },
            Augmentation {
                colour: 0.1,
                ..none
            },
            Augmentation {
                cutout: 0.9,
                ..none
            },
        ] {
            let distorted = |slot, step| {
                let mut image = original.clone();
                distortion(augmentation).apply(&mut image, slot, step);
                image
            };
            assert_eq!(distorted(1, 2), distorted(1, 2));
            assert_ne!(distorted(1, 2), distorted(2, 2));
            assert_ne!(distorted(1, 2), distorted(1, 3));
        }
    }

    #[test]
    fn between_pixels_is_bilinear_and_black_or_the_edge_outside() {
        let black = distortion(Augmentation::default());
        let image = dot(3, 4);
        assert_eq!(black.between_pixels(&image, 3.0, 4.0), 1.0);
        assert_eq!(black.between_pixels(&image, 3.5, 4.0), 0.0);
        let expected = 0.75 * 0.5 * 2.0 - 1.0;
        assert_eq!(black.between_pixels(&image, 2.75, 4.5), expected);
        for (x, y) in [(-1.0, 4.0), (3.0, 9.5), (-50.0, 1e9)] {
            assert_eq!(black.between_pixels(&image, x, y), BLACK);
        }
        let edge = Distortion {
            surroundings: Surroundings::Edge,
            ..black
        };
        assert_eq!(edge.between_pixels(&image, 2.75, 4.5), expected);
        let image = dot(8, 8);
        for (x, y) in [(8.0, 8.0), (8.4, 20.0), (1e9, 8.0)] {
            assert_eq!(edge.between_pixels(&image, x, y), 1.0);
        }
    }

    #[test]
    fn turning_keeps_the_centre_and_pixels_stay_in_their_range() {
        let augmentation = Augmentation {
            rotation: 40.0,
            scale: 0.2,
            ..Augmentation::default()
        };
        for slot in 0..20 {
            let mut image = dot(4, 4);
            distortion(augmentation).apply(&mut image, slot, 0);
            assert!((image[4 * SIDE + 4] - 1.0).abs() < 1e-4);
            assert!(image.iter().all(|pixel| (-1.0..=1.0001).contains(pixel)));
        }
    }

    #[test]
    fn all_channels_move_together() {
        let augmentation = Augmentation {
            shift: 2.0,
            rotation: 10.0,
            cutout: 0.3,
            ..Augmentation::default()
        };
        let mut gray = dot(3, 4);
        distortion(augmentation).apply(&mut gray, 5, 6);
        let mut image = dot(3, 4).repeat(3);
        distortion(augmentation).apply(&mut image, 5, 6);
        assert_eq!(image, gray.repeat(3));
    }

    #[test]
    fn colours_keep_their_range_and_gray_images_stay_gray() {
        let mut image: Vec<f32> = (0..3 * SIDE * SIDE).map(|n| (n as f32).sin()).collect();
        recolour(&mut image, SIDE, 0.0, 1.0, 1.0);
        let unchanged = (0..3 * SIDE * SIDE).map(|n| (n as f32).sin());
        assert!(
            image
                .iter()
                .zip(unchanged)
                .all(|(one, other)| (one - other).abs() < 1e-6)
        );
        recolour(&mut image, SIDE, 0.5, 2.0, 3.0);
        assert!(image.iter().all(|pixel| (-1.0..=1.0).contains(pixel)));
        recolour(&mut image, SIDE, 0.0, 1.0, 0.0);
        let gray = &image[..SIDE * SIDE];
        let others = image[SIDE * SIDE..].chunks(SIDE * SIDE);
        assert!(
            others
                .flat_map(|plane| plane.iter().zip(gray))
                .all(|(one, other)| (one - other).abs() < 1e-6)
        );
    }

    #[test]
    fn the_hidden_square_has_its_side() {
        let augmentation = Augmentation {
            cutout: 1.0 / 3.0,
            ..Augmentation::default()
        };
        let hidden = |centre| {
            let mut image = vec![BLACK; SIDE * SIDE];
            distortion(augmentation).hide(&mut image, centre);
            image.iter().filter(|&&pixel| pixel == GRAY).count()
        };
        assert_eq!(
            (hidden([0.5, 0.5]), hidden([0.0, 0.5]), hidden([0.99, 0.99])),
            (9, 6, 4)
        );
    }
}
