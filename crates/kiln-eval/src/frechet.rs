//! The Frechet distance between two sets of features: FID, if the features are Inception's.

use nalgebra::{DMatrix, DVector};

use crate::{EvalError, Features};

/// A normal distribution fitted to features.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// The mean and the (unbiased) covariance of at least two images.
    ///
    /// In double precision: with fewer images than features the covariance is singular, and the square root below would
    /// turn rounding errors of 1e-7 into 3e-4 for each of hundreds of directions.
    ///
    /// # Errors
    /// [`EvalError::TooFew`] below two images.
    pub fn fit(features: &Features) -> Result<Self, EvalError> {
        features.at_least(2, "a Frechet distance")?;
        let (count, length) = (features.count(), features.length());
        let values = features.values().iter().map(|&value| f64::from(value));
        let mut rows = DMatrix::from_row_iterator(count, length, values);
        let mean = rows.row_mean();
        for mut row in rows.row_iter_mut() {
            row -= &mean;
        }
        let covariance = rows.tr_mul(&rows) / (count as f64 - 1.0);
        Ok(Self {
            mean: mean.transpose(),
            covariance,
        })
    }

    /// The squared Frechet (2-Wasserstein) distance between two normal distributions (Dowson and Landau 1982), which
    /// Heusel et al. 2017 use to compare sets of images:
    ///
    /// ```text
    /// |m1 - m2|² + trace(C1) + trace(C2) - 2 trace((C1 C2)^(1/2))
    /// ```
    ///
    /// 0 for the same set twice. The square root's trace is the sum of the roots of the eigenvalues of `L^T C2 L`,
    /// where `L L^T = C1`; `C1 C2` has the same eigenvalues.
    ///
    /// # Errors
    /// [`EvalError::Lengths`] for features of different lengths.
    pub fn frechet_distance(&self, other: &Self) -> Result<f64, EvalError> {
        let (left, right) = (self.mean.len(), other.mean.len());
        if left != right {
            return Err(EvalError::Lengths { left, right });
        }
        let root = semidefinite_cholesky(self.covariance.clone());
        let product = root.tr_mul(&other.covariance) * root;
        // Rounding makes it slightly asymmetric, and tiny eigenvalues slightly negative.
        let product = (&product + product.transpose()) * 0.5;
        let roots = product.symmetric_eigenvalues();
        let trace_of_root: f64 = roots.iter().map(|value| value.max(0.0).sqrt()).sum();
        let between_means = (&self.mean - &other.mean).norm_squared();
        Ok(
            between_means + self.covariance.trace() + other.covariance.trace()
                - 2.0 * trace_of_root,
        )
    }
}

/// The lower triangular `L` of a positive semidefinite matrix with `L L^T` equal to it.
///
/// The usual algorithm, column by column, except that a column becomes zero if its pivot is only rounding error: in a
/// semidefinite matrix the rest of that column is then zero, too. With fewer images than features most columns are like
/// this.
fn semidefinite_cholesky(mut matrix: DMatrix<f64>) -> DMatrix<f64> {
    let size = matrix.nrows();
    let rounding = matrix.diagonal().max() * f64::EPSILON * size as f64;
    for column in 0..size {
        let (done, mut rest) = matrix.columns_range_pair_mut(..column, column..);
        let mut current = rest.column_mut(0);
        current.rows_mut(0, column).fill(0.0);
        let mut current = current.rows_mut(column, size - column);
        for earlier in done.column_iter() {
            let earlier = earlier.rows(column, size - column);
            current.axpy(-earlier[0], &earlier, 1.0);
        }
        let pivot = current[0];
        if pivot > rounding {
            current /= pivot.sqrt();
        } else {
            current.fill(0.0);
        }
    }
    matrix
}

/// [`Gaussian::frechet_distance`] between the distributions fitted to two sets of features.
///
/// # Errors
/// [`EvalError::TooFew`] below two images, [`EvalError::Lengths`] for features of different lengths.
pub fn frechet_distance(left: &Features, right: &Features) -> Result<f64, EvalError> {
    Gaussian::fit(left)?.frechet_distance(&Gaussian::fit(right)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn features(rows: &[[f32; 2]]) -> Features {
        Features::new(rows.concat(), 2).unwrap()
    }

    #[test]
    fn one_dimension_at_a_time_it_is_the_distance_of_means_and_deviations() {
        // Variances 2 and 8 along x, 0 along y; the means lie (3, 4) apart.
        let left = features(&[[-1.0, 0.0], [1.0, 0.0]]);
        let right = features(&[[1.0, 4.0], [5.0, 4.0]]);
        let expected = 9.0 + 16.0 + (8f64.sqrt() - 2f64.sqrt()).powi(2);
        let distance = frechet_distance(&left, &right).unwrap();
        assert!((distance - expected).abs() < 1e-9, "{distance}");
    }

    proptest! {
        #[test]
        fn the_root_of_a_matrix_gives_it_back_whatever_its_rank(
            rows in 1usize..5,
            values in prop::collection::vec(-3.0f64..3.0, 20),
        ) {
            let factor = DMatrix::from_row_slice(rows, 4, &values[..rows * 4]);
            let matrix = factor.tr_mul(&factor);
            let root = semidefinite_cholesky(matrix.clone());
            prop_assert!((&root * root.transpose() - &matrix).abs().max() < 1e-6, "{root} {matrix}");
            prop_assert!(root.upper_triangle() == DMatrix::from_diagonal(&root.diagonal()));
        }
    }

    #[test]
    fn a_set_has_no_distance_from_itself_and_one_image_is_too_few() {
        let set = features(&[[0.3, 1.0], [2.0, -1.0], [0.5, 0.25]]);
        assert!(frechet_distance(&set, &set).unwrap().abs() < 1e-9);
        assert!(frechet_distance(&set, &set.first(1)).is_err());
    }
}
