//! The kernel distance between two sets of features: KID, if the features are Inception's.

use burn::tensor::Tensor;

use crate::{EvalError, Features};

/// A mean over subsets, and its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelDistance {
    /// The mean of the subsets' distances.
    pub mean: f64,
    /// The standard deviation between subsets, which publications usually give.
    pub deviation: f64,
    /// The standard error of the mean, `deviation / sqrt(subsets)`; `None` for a single subset. Subsets overlap, so it
    /// is a little too small.
    pub standard_error: Option<f64>,
}

/// The unbiased squared maximum mean discrepancy between two sets (Gretton et al. 2012, equation 3) with the kernel
/// `k(x, y) = (x.y / length + 1)³` (Binkowski et al. 2018):
///
/// ```text
/// mean over i != j of k(x_i, x_j)  +  mean over i != j of k(y_i, y_j)  -  2 mean of k(x_i, y_j)
/// ```
///
/// Around 0 for two sets from the same distribution, as often below as above.
///
/// # Errors
/// [`EvalError::TooFew`] below two images, [`EvalError::Lengths`] for features of different lengths.
pub fn squared_discrepancy(left: &Features, right: &Features) -> Result<f64, EvalError> {
    left.check_length(right)?;
    for set in [left, right] {
        set.at_least(2, "a kernel distance")?;
    }
    let (x, y) = (left.to_tensor(), right.to_tensor());
    Ok(mean_of_pairs(x.clone())? + mean_of_pairs(y.clone())? - 2.0 * mean_between(x, y)?)
}

/// KID: the mean of [`squared_discrepancy`] over `subsets` random subsets of `size` images of either set (or of all
/// images, if there are fewer), drawn by `seed`. 100 subsets of 1,000 images are usual. Sets of at most `size` images
/// are compared once, as a whole.
///
/// # Errors
/// Those of [`squared_discrepancy`].
pub fn kernel_distance(
    left: &Features,
    right: &Features,
    subsets: usize,
    size: usize,
    seed: u64,
) -> Result<KernelDistance, EvalError> {
    let size = size.min(left.count()).min(right.count());
    // All images of both sets give the same distance in any order.
    let takes_all = size == left.count() && size == right.count();
    let subsets = if takes_all { 1 } else { subsets };
    let subset = |set: &Features, draw| {
        let order = kiln_data::shuffled(set.count(), seed, draw);
        set.select(&order[..size.min(order.len())])
    };
    let distances = (0..subsets)
        .map(|draw| squared_discrepancy(&subset(left, 2 * draw), &subset(right, 2 * draw + 1)));
    Ok(mean_and_deviation(
        &distances.collect::<Result<Vec<_>, _>>()?,
    ))
}

/// The kernel distance as in the Keras examples of diffusion models: the mean of [`squared_discrepancy`] over
/// consecutive batches of `batch` images of both sets. A last batch that is not full is left out.
///
/// # Errors
/// Those of [`squared_discrepancy`], and [`EvalError::TooFew`] if there is no full batch.
pub fn kernel_distance_by_batches(
    left: &Features,
    right: &Features,
    batch: usize,
) -> Result<KernelDistance, EvalError> {
    for set in [left, right] {
        set.at_least(batch, "a kernel distance by batches")?;
    }
    let batches = left.count().min(right.count()) / batch.max(1);
    let distances = (0..batches).map(|number| {
        let images: Vec<u32> = (number * batch..(number + 1) * batch)
            .map(|image| image as u32)
            .collect();
        squared_discrepancy(&left.select(&images), &right.select(&images))
    });
    Ok(mean_and_deviation(
        &distances.collect::<Result<Vec<_>, _>>()?,
    ))
}

fn mean_and_deviation(values: &[f64]) -> KernelDistance {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    KernelDistance {
        mean,
        deviation: variance.sqrt(),
        standard_error: (values.len() > 1).then(|| (variance / count).sqrt()),
    }
}

fn kernel(product: f64, length: f64) -> f64 {
    (product / length + 1.0).powi(3)
}

/// The mean of the kernel over all pairs of different rows.
fn mean_of_pairs(x: Tensor<2>) -> Result<f64, EvalError> {
    let [count, length] = x.dims();
    let products = x.clone().matmul(x.transpose()).try_into_data_as::<f32>()?;
    let kernels = products
        .iter::<f64>()
        .map(|product| kernel(product, length as f64));
    // The diagonal is every (count + 1)-th: a row with itself.
    let all = kernels
        .enumerate()
        .filter(|(place, _)| !place.is_multiple_of(count + 1));
    Ok(all.map(|(_, value)| value).sum::<f64>() / (count * (count - 1)) as f64)
}

/// The mean of the kernel over all pairs of a row of `x` and one of `y`.
fn mean_between(x: Tensor<2>, y: Tensor<2>) -> Result<f64, EvalError> {
    let ([rows, length], [columns, _]) = (x.dims(), y.dims());
    let products = x.matmul(y.transpose()).try_into_data_as::<f32>()?;
    let sum: f64 = products
        .iter::<f64>()
        .map(|product| kernel(product, length as f64))
        .sum();
    Ok(sum / (rows * columns) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: &[f32]) -> Features {
        Features::new(values.to_vec(), 1).unwrap()
    }

    #[test]
    fn it_is_the_formula() {
        // k(1, 2) = 27, k(0, 3) = 1; between: k(1, 0) = k(2, 0) = 1, k(1, 3) = 64, k(2, 3) = 343.
        let distance = squared_discrepancy(&features(&[1.0, 2.0]), &features(&[0.0, 3.0])).unwrap();
        assert!((distance - (27.0 + 1.0 - 2.0 * 409.0 / 4.0)).abs() < 1e-6);
    }

    #[test]
    fn subsets_of_everything_are_all_the_same() {
        let (left, right) = (features(&[1.0, 2.0, 0.5]), features(&[0.0, 3.0, 1.5]));
        let whole = squared_discrepancy(&left, &right).unwrap();
        let distance = kernel_distance(&left, &right, 4, 1000, 7).unwrap();
        assert!((distance.mean - whole).abs() < 1e-9 && distance.deviation < 1e-9);
    }

    #[test]
    fn batches_are_consecutive_and_full() {
        let (left, right) = (
            features(&[1.0, 2.0, 0.0, 1.0, 9.0]),
            features(&[0.0, 3.0, 1.0, 1.0, 5.0]),
        );
        let batch = |from| {
            let images = [from, from + 1];
            squared_discrepancy(&left.select(&images), &right.select(&images)).unwrap()
        };
        let distance = kernel_distance_by_batches(&left, &right, 2).unwrap();
        assert!((distance.mean - (batch(0) + batch(2)) / 2.0).abs() < 1e-9);
        assert!(kernel_distance_by_batches(&left, &right, 6).is_err());
    }
}
