//! Sums whose order never changes.

use pulp::{Arch, Simd, WithSimd};

/// The sum of `values`.
pub(crate) fn sum(values: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);

    impl WithSimd for Sum<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> f32 {
            sum_of(self.0, self.0, |x, _| x)
        }
    }

    Arch::new().dispatch(Sum(values))
}

/// The sum of `term(left, right)` over pairs of numbers.
///
/// 64 partial sums run side by side: vectors for the compiler, and a smaller error than one sum would have.
/// To be called from code that runs through [`Arch::dispatch`].
#[inline(always)]
pub(crate) fn sum_of(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 64;
    let mut lanes = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += term(left[lane], right[lane]);
        }
    }
    for ((lane, left), right) in lanes.iter_mut().zip(left_rest).zip(right_rest) {
        *lane += term(*left, *right);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of the rows of a matrix with `columns` columns, from the first to the last.
pub(crate) fn sum_of_rows(values: &[f32], columns: usize) -> Vec<f32> {
    let mut total = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        for (total, value) in total.iter_mut().zip(row) {
            *total += value;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_count_every_number_once() {
        for len in [0usize, 1, 63, 64, 65, 127, 128, 1000] {
            let values: Vec<f32> = (0..len).map(|index| index as f32).collect();
            assert_eq!(sum(&values) as usize, len * len.saturating_sub(1) / 2);
        }
    }

    #[test]
    fn rows_are_summed_by_column() {
        assert_eq!(sum_of_rows(&[1.0, 2.0, 3.0, 4.0], 2), [4.0, 6.0]);
    }
}
