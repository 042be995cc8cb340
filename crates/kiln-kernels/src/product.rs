//! Matrix products over slices: the one place where this crate calls code that the compiler cannot check.

use gemm::Parallelism;

/// The longest sum that `gemm` is asked for at once.
///
/// It cuts longer ones by rules that also look at the other two sides of the product. An element would
/// then depend, in its last bits, on how many others are computed with it: an image on the size of its batch.
const LONGEST_SUM: usize = 512;

/// A read-only matrix: element `[row, column]` is `values[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The first `rows * columns` values, row after row.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            values,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// As [`Matrix::new`], with rows that are `row_stride` apart.
    pub(crate) fn part(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self {
            row_stride,
            ..Self::new(values, rows, columns)
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The index after that of the last element.
    fn end(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// What becomes of the numbers at the destination of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// They are forgotten.
    Overwritten,
    /// The product is added to them.
    Accumulated,
}

/// `left * right` into `destination`, `[left.rows, right.columns]`, whose rows are `row_stride` apart.
///
/// One thread computes it: callers run several products side by side instead.
#[allow(unsafe_code)]
pub(crate) fn multiply(
    destination: &mut [f32],
    row_stride: usize,
    before: Destination,
    left: Matrix<'_>,
    right: Matrix<'_>,
) {
    let (rows, columns, depth) = (left.rows, right.columns, left.columns);
    assert_eq!(depth, right.rows, "the factors do not fit together");
    assert!(rows > 0 && columns > 0 && depth > 0 && row_stride >= columns);
    let end = (rows - 1) * row_stride + columns;
    assert!(destination.len() >= end);
    assert!(left.values.len() >= left.end() && right.values.len() >= right.end());
    assert!(isize::try_from(left.end().max(right.end()).max(end)).is_ok());
    for start in (0..depth).step_by(LONGEST_SUM) {
        // SAFETY: `gemm` reads the elements [row, start..start + length] of `left` and [start..start + length,
        // column] of `right`; none lies at or after `end()`, which the assertions above hold to be in the slices.
        // It writes (and may read) `columns` values from each multiple of `row_stride` of `destination`, all before
        // `end`; as `row_stride >= columns` they are distinct. `destination` is borrowed mutably, so it overlaps
        // neither factor. All strides fit an `isize` as they are at most the ends
        // wherever a dimension is longer than 1, and are not followed otherwise. All pointers are to `f32`.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                LONGEST_SUM.min(depth - start),
                destination.as_mut_ptr(),
                1,
                row_stride as isize,
                start > 0 || before == Destination::Accumulated,
                left.values.as_ptr().add(start * left.column_stride),
                left.column_stride as isize,
                left.row_stride as isize,
                right.values.as_ptr().add(start * right.row_stride),
                right.column_stride as isize,
                right.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|index| ((index * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    fn naive(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
        let element = |matrix: &Matrix<'_>, row: usize, column: usize| {
            f64::from(matrix.values[row * matrix.row_stride + column * matrix.column_stride])
        };
        let mut product = Vec::new();
        for row in 0..left.rows {
            for column in 0..right.columns {
                let sum: f64 = (0..left.columns)
                    .map(|k| element(&left, row, k) * element(&right, k, column))
                    .sum();
                product.push(sum as f32);
            }
        }
        product
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_definition(
            rows in 1usize..20, depth in 1usize..1100, columns in 1usize..40,
            transposed in any::<[bool; 2]>(), accumulate in any::<bool>(),
        ) {
            let (a, b) = (values(rows * depth, 1), values(depth * columns, 2));
            let left = if transposed[0] { Matrix::new(&a, depth, rows).transposed() } else { Matrix::new(&a, rows, depth) };
            let right = if transposed[1] { Matrix::new(&b, columns, depth).transposed() } else { Matrix::new(&b, depth, columns) };
            let mut product = vec![0.5; rows * columns];
            let (before, offset) = if accumulate { (Destination::Accumulated, 0.5) } else { (Destination::Overwritten, 0.0) };
            multiply(&mut product, columns, before, left, right);
            for (ours, exact) in product.iter().zip(naive(left, right)) {
                prop_assert!((ours - exact - offset).abs() < 1e-6 * depth as f32, "{ours} {exact}");
            }
        }
    }

    #[test]
    fn a_column_does_not_depend_on_how_many_there_are() {
        for (rows, depth) in [(1, 9), (3, 27), (64, 576), (96, 864), (17, 1100)] {
            let left = values(rows * depth, 3);
            let wide = values(depth * 256, 4);
            let mut all = vec![0.0; rows * 256];
            multiply(
                &mut all,
                256,
                Destination::Overwritten,
                Matrix::new(&left, rows, depth),
                Matrix::new(&wide, depth, 256),
            );
            for columns in [16, 32, 48, 64, 80, 128, 240] {
                let narrow: Vec<f32> = wide
                    .chunks(256)
                    .flat_map(|row| row[..columns].to_vec())
                    .collect();
                let mut some = vec![0.0; rows * columns];
                multiply(
                    &mut some,
                    columns,
                    Destination::Overwritten,
                    Matrix::new(&left, rows, depth),
                    Matrix::new(&narrow, depth, columns),
                );
                for (row, all) in some.chunks(columns).zip(all.chunks(256)) {
                    assert_eq!(row, &all[..columns], "{rows} x {depth} x {columns}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "do not fit together")]
    fn factors_of_different_depths_are_refused() {
        multiply(
            &mut [0.0],
            1,
            Destination::Overwritten,
            Matrix::new(&[0.0; 2], 1, 2),
            Matrix::new(&[0.0; 3], 3, 1),
        );
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn slices_that_are_too_short_are_refused() {
        multiply(
            &mut [0.0; 4],
            2,
            Destination::Overwritten,
            Matrix::new(&[0.0; 3], 2, 2),
            Matrix::new(&[0.0; 4], 2, 2),
        );
    }
}
