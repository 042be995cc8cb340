//! The nearest codes against Burn's own operators.

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_kernels::nearest_codes;
use proptest::prelude::*;

fn tensor(shape: [usize; 2], seed: u64) -> Tensor<2> {
    common::tensor(shape, seed, &Device::flex())
}

fn floats(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn integers(tensor: &Tensor<1, Int>) -> Vec<usize> {
    tensor
        .to_data()
        .iter::<i64>()
        .map(|index| usize::try_from(index).expect("indices are not negative"))
        .collect()
}

/// Differing indices must have distances that rounding cannot tell apart.
fn check(rows: usize, count: usize, dimension: usize, seed: u64) {
    let (vectors, codes) = (
        tensor([rows, dimension], seed),
        tensor([count, dimension], seed + 1),
    );
    let squared_lengths = codes.clone().square().sum_dim(1).transpose();
    let products = vectors.clone().matmul(codes.clone().transpose());
    let distances = squared_lengths - products * 2.0;
    let burns = integers(&distances.argmin(1).squeeze_dim(1));
    let ours = integers(&nearest_codes(vectors.clone(), codes.clone()));
    assert_eq!(ours.len(), rows);
    let (vectors, codes) = (floats(&vectors), floats(&codes));
    let distance = |row: usize, code: usize| -> f64 {
        let vector = &vectors[row * dimension..][..dimension];
        let code = &codes[code * dimension..][..dimension];
        let pairs = vector.iter().zip(code);
        pairs
            .map(|(z, e)| (f64::from(*z) - f64::from(*e)).powi(2))
            .sum()
    };
    for (row, (ours, burns)) in ours.into_iter().zip(burns).enumerate() {
        let (ours_distance, burns_distance) = (distance(row, ours), distance(row, burns));
        assert!(
            ours == burns || (ours_distance - burns_distance).abs() <= 1e-6 * dimension as f64,
            "{row}: {ours} at {ours_distance} instead of {burns} at {burns_distance}"
        );
    }
}

proptest! {
    #[test]
    fn the_nearest_is_found(
        rows in 1usize..150, count in 1usize..150, dimension in 1usize..40, seed in 0u64..1000,
    ) {
        check(rows, count, dimension, seed);
    }
}

#[test]
fn the_nearest_is_found_at_the_sizes_of_the_models() {
    check(1000, 512, 4, 1);
    check(300, 1024, 4, 2);
    check(65, 513, 64, 3);
    check(65, 100, 256, 4);
}

#[test]
fn every_code_is_nearest_to_itself() {
    let codes = tensor([777, 8], 5);
    let found = integers(&nearest_codes(codes.clone(), codes));
    assert!(found.into_iter().eq(0..777));
}

#[test]
fn the_first_of_equals_is_chosen() {
    let code = tensor([1, 5], 6);
    for count in [2, 17, 64, 65, 300] {
        let codes = Tensor::cat(
            vec![code.clone() * 10.0, code.clone().expand([count, 5])],
            0,
        );
        let found = nearest_codes(code.clone().expand([7, 5]), codes);
        assert_eq!(integers(&found), [1; 7]);
    }
}

#[test]
fn what_is_not_a_number_still_has_an_index_in_range() {
    let codes = tensor([33, 3], 7);
    let mut values = floats(&tensor([6, 3], 8));
    values[0] = f32::NAN;
    values[4] = f32::INFINITY;
    values[8] = f32::NEG_INFINITY;
    let vectors = Tensor::from_data(TensorData::new(values, [6, 3]), &Device::flex());
    let found = integers(&nearest_codes(vectors, codes));
    assert!(found.iter().all(|index| *index < 33));
    assert_eq!(found[0], 0);
}

#[test]
fn tracked_tensors_and_views_are_read() {
    let vectors = tensor([8, 50], 9);
    let codes = tensor([40, 8], 10);
    let expected = nearest_codes(
        Tensor::from_data(vectors.clone().transpose().to_data(), &Device::flex()),
        codes.clone(),
    );
    let tracked = Tensor::from_inner(vectors.transpose()).require_grad();
    let found = nearest_codes(tracked, Tensor::from_inner(codes));
    assert_eq!(integers(&found), integers(&expected));
}

#[test]
fn no_vectors_have_no_codes() {
    let none = Tensor::empty([0, 4], &Device::flex());
    assert_eq!(nearest_codes(none, tensor([3, 4], 11)).dims(), [0]);
}

#[test]
#[should_panic(expected = "has no nearest among")]
fn dimensions_must_be_the_same() {
    nearest_codes(tensor([3, 4], 1), tensor([3, 5], 2));
}
