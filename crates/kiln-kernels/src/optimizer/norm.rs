//! Sums of squares over many arrays at once.

use burn::backend::flex::FlexTensor;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;
use crate::instructions::vectorized;
use crate::reduction::sum_of;

/// Partial sums of the squares of all values, in an order that does not depend on the threads.
pub(crate) fn squares(tensors: &[FlexTensor]) -> Vec<f64> {
    let values: Vec<&[f32]> = tensors.iter().map(FlexTensor::storage).collect();
    values
        .par_iter()
        .flat_map(|values| values.par_chunks(CHUNK))
        .map(|chunk| f64::from(vectorized(Squares(chunk))))
        .collect()
}

struct Squares<'a>(&'a [f32]);

impl WithSimd for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        sum_of(self.0, self.0, |x, y| x * y)
    }
}
