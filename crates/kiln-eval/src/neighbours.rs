//! Measures by nearest neighbours: precision, recall, density, coverage, and whether images were memorised.

use burn::tensor::{Tensor, s};

use crate::{EvalError, Features};

/// Rows whose distances to all others are computed together, which limits the memory.
const ROWS: usize = 1024;

/// The position of drawn images among real ones; all figures go from 0 (bad) up.
///
/// A set's *ball* around one of its images extends to the image's k-th nearest neighbour in the set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manifolds {
    /// Share of the drawn images that lie in a ball of a real one: fidelity (Kynkäänniemi et al. 2019).
    pub precision: f64,
    /// Share of the real images that lie in a ball of a drawn one: variety (Kynkäänniemi et al. 2019).
    pub recall: f64,
    /// How many balls of real images a drawn one lies in, divided by k: 1 for drawn images like the real ones (Naeem et
    /// al. 2020). Unlike `precision`, it changes little with a single stray real image.
    pub density: f64,
    /// Share of the real images with a drawn one in their ball (Naeem et al. 2020).
    pub coverage: f64,
}

impl Manifolds {
    /// Compares drawn with real images by balls up to the `neighbours`-th nearest neighbour. 5 is usual.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] unless both sets have more images than `neighbours`, [`EvalError::Lengths`] for features of
    /// different lengths.
    pub fn compare(
        real: &Features,
        drawn: &Features,
        neighbours: usize,
    ) -> Result<Self, EvalError> {
        real.check_length(drawn)?;
        for set in [real, drawn] {
            set.at_least(neighbours + 1, "precision and recall")?;
        }
        let real_radii = radii(real, neighbours)?;
        let drawn_radii = radii(drawn, neighbours)?;

        let mut is_precise = vec![false; drawn.count()];
        let (mut recalled, mut covered, mut hits) = (0_usize, 0_usize, 0_usize);
        each_row(real, drawn, |image, distances| {
            let radius = real_radii.get(image).copied().unwrap_or_default();
            let mut in_ball = 0;
            for (is_precise, &distance) in is_precise.iter_mut().zip(distances) {
                if distance < radius {
                    *is_precise = true;
                    in_ball += 1;
                }
            }
            hits += in_ball;
            covered += usize::from(in_ball > 0);
            let mut balls = distances.iter().zip(&drawn_radii);
            recalled += usize::from(balls.any(|(distance, radius)| distance < radius));
        })?;
        let precise = is_precise.iter().filter(|&&is_precise| is_precise).count();
        let share = |count: usize, of: usize| count as f64 / of as f64;
        Ok(Self {
            precision: share(precise, drawn.count()),
            recall: share(recalled, real.count()),
            density: share(hits, drawn.count()) / neighbours as f64,
            coverage: share(covered, real.count()),
        })
    }
}

/// For each image of `set` the nearest one of `others`: its number, and the Euclidean distance.
///
/// # Errors
/// [`EvalError::Lengths`] for features of different lengths, [`EvalError::TooFew`] if `others` is empty.
pub fn nearest(set: &Features, others: &Features) -> Result<Vec<(usize, f64)>, EvalError> {
    set.check_length(others)?;
    others.at_least(1, "a nearest image")?;
    let mut found = Vec::with_capacity(set.count());
    each_row(set, others, |_, distances| {
        let numbered = distances.iter().copied().enumerate();
        let nearest = numbered.min_by(|a, b| a.1.total_cmp(&b.1));
        found.extend(nearest.map(|(image, squared)| (image, f64::from(squared).sqrt())));
    })?;
    Ok(found)
}

/// The squared distance of each image to its `neighbours`-th nearest neighbour in its own set.
fn radii(set: &Features, neighbours: usize) -> Result<Vec<f32>, EvalError> {
    let mut radii = Vec::with_capacity(set.count());
    each_row(set, set, |image, distances| {
        // An image is not its own neighbour, even if rounding makes another one as near.
        let others = distances
            .iter()
            .enumerate()
            .filter(|&(other, _)| other != image);
        let mut others: Vec<f32> = others.map(|(_, &distance)| distance).collect();
        let place = neighbours
            .saturating_sub(1)
            .min(others.len().saturating_sub(1));
        if !others.is_empty() {
            radii.push(*others.select_nth_unstable_by(place, f32::total_cmp).1);
        }
    })?;
    Ok(radii)
}

/// Calls `observe` with each image of `set` and its squared distances to all of `others`.
fn each_row(
    set: &Features,
    others: &Features,
    mut observe: impl FnMut(usize, &[f32]),
) -> Result<(), EvalError> {
    // |x - y|² = |x|² + |y|² - 2 x.y loses digits if |x| is much larger than |x - y|, so move both sets to a common centre.
    let (x, y) = (set.to_tensor(), others.to_tensor());
    let centre = y.clone().mean_dim(0);
    let (x, y) = (x - centre.clone(), y - centre);
    let y_squares: Tensor<2> = y.clone().square().sum_dim(1).transpose();
    let y_transposed = y.transpose();
    let count = set.count();
    for first in (0..count).step_by(ROWS) {
        let rows = x.clone().slice(s![first..(first + ROWS).min(count), ..]);
        let squares = rows.clone().square().sum_dim(1) + y_squares.clone();
        let distances = squares - rows.matmul(y_transposed.clone()) * 2.0;
        let distances: Vec<f32> = (distances
            .clamp_min(0.0)
            .try_into_data_as::<f32>()?
            .iter::<f32>())
        .collect();
        for (row, distances) in distances.chunks(others.count()).enumerate() {
            observe(first + row, distances);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: impl IntoIterator<Item = f32>) -> Features {
        Features::new(values.into_iter().collect(), 1).unwrap()
    }

    #[test]
    fn two_sets_far_apart_have_nothing_in_common() {
        let real = line((0..10).map(|value| value as f32));
        let drawn = line((0..10).map(|value| 100.0 + value as f32));
        let manifolds = Manifolds::compare(&real, &drawn, 3).unwrap();
        let Manifolds {
            precision,
            recall,
            density,
            coverage,
        } = manifolds;
        assert_eq!([precision, recall, density, coverage], [0.0; 4]);
    }

    #[test]
    fn one_image_drawn_again_and_again_is_precise_but_recalls_little() {
        let real = line((0..10).map(|value| value as f32));
        let drawn = line([4.5; 10]);
        let manifolds = Manifolds::compare(&real, &drawn, 2).unwrap();
        assert_eq!((manifolds.precision, manifolds.recall), (1.0, 0.0));
        // Balls of radius 1 (2 at the ends) around 4 and 5 contain it.
        assert_eq!((manifolds.density, manifolds.coverage), (1.0, 0.2));
    }

    #[test]
    fn the_nearest_image_is_found_across_blocks_of_rows() {
        let others = line((0..50).map(|value| value as f32 * 10.0));
        let set = line((0..3000).map(|value| (value % 50) as f32 * 10.0 + 1.0));
        let found = nearest(&set, &others).unwrap();
        assert_eq!(found.len(), 3000);
        for (image, &(nearest, distance)) in found.iter().enumerate() {
            assert_eq!(nearest, image % 50);
            assert!((distance - 1.0).abs() < 1e-2, "{distance}");
        }
    }

    #[test]
    fn sets_must_be_larger_than_the_neighbourhood() {
        let set = line([0.0, 1.0, 2.0]);
        assert!(Manifolds::compare(&set, &set, 3).is_err());
        assert!(nearest(&set, &Features::new(vec![0.0, 1.0], 2).unwrap()).is_err());
    }
}
