//! An update of the weights against Burn's own operators on the same backend.

mod common;

use burn::backend::Flex;
use burn::optim::{AdamWConfig, AdamWState, Optimizer};
use burn::tensor::{DType, Device, Tensor};
use common::{numbers, on_threads};
use kiln_kernels::{AdamW, euclidean_norm, moving_average};
use proptest::prelude::*;

const ADAMW: AdamW = AdamW {
    beta_1: 0.9,
    beta_2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.02,
};

/// More than one thread's share, and not a whole number of vectors.
const LARGE: usize = 3 * 16 * 1024 + 77;

fn tensor<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    common::tensor(shape, seed, &Device::flex())
}

/// The address of the tensor's numbers.
fn place<const D: usize>(tensor: &Tensor<D>) -> *const u8 {
    let tensor = tensor.clone().try_into_primitive::<Flex>();
    tensor.expect("the tensor is on Flex").bytes().as_ptr()
}

fn burns(adamw: AdamW) -> burn::optim::AdamW {
    AdamWConfig::new()
        .with_beta_1(adamw.beta_1)
        .with_beta_2(adamw.beta_2)
        .with_epsilon(adamw.epsilon)
        .with_weight_decay(adamw.weight_decay)
        .build()
}

/// Twenty steps of ours and of Burn's, which must agree in every bit.
fn compare(adamw: AdamW, shape: [usize; 2], learning_rate: f64, scale: f64) {
    let mut ours: (Tensor<2>, Option<AdamWState<2>>) = (tensor(shape, 0), None);
    let mut burns_own: (Tensor<2>, Option<AdamWState<2>>) = (tensor(shape, 0), None);
    for step in 1..=20 {
        let gradient = || tensor(shape, step);
        ours = adamw.step(learning_rate, scale, ours.0, gradient(), ours.1);
        let (weight, state) = burns_own;
        let scaled = gradient().mul_scalar(scale);
        burns_own = burns(adamw).step(learning_rate, weight, scaled, state);
        assert_eq!(numbers(&ours.0), numbers(&burns_own.0), "step {step}");
    }
    let (ours, burns_own) = (ours.1.expect("a state"), burns_own.1.expect("a state"));
    let (ours, burns_own) = (ours.momentum, burns_own.momentum);
    assert_eq!(ours.time, burns_own.time);
    assert_eq!(numbers(&ours.moment_1), numbers(&burns_own.moment_1));
    assert_eq!(numbers(&ours.moment_2), numbers(&burns_own.moment_2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn adamw_is_burns(
        shape in [1usize..40, 1usize..40],
        betas in [0.0f32..0.99, 0.0f32..0.9999],
        epsilon in 1e-8f32..1e-3,
        weight_decay in prop_oneof![Just(0.0f32), 0.0f32..0.5],
        learning_rate in 1e-5..1e-1f64,
        scale in prop_oneof![Just(1.0f64), 1e-3..1.0f64],
    ) {
        let adamw = AdamW { beta_1: betas[0], beta_2: betas[1], epsilon, weight_decay };
        compare(adamw, shape, learning_rate, scale);
    }

    #[test]
    fn the_average_is_burns(len in 1usize..300, decay in 0.0..=1.0f64) {
        let (average, weight) = (tensor([len], 1), tensor([len], 2));
        let difference = (average.clone() - weight.clone()).mul_scalar(1.0 - decay);
        let expected = average.clone() - difference;
        prop_assert_eq!(numbers(&moving_average(average, weight, decay)), numbers(&expected));
    }

    #[test]
    fn the_norm_is_that_of_all_numbers(lens in proptest::collection::vec(1usize..300, 0..6)) {
        let tensors: Vec<Tensor<1>> = (1..).zip(lens).map(|(seed, len)| tensor([len], seed)).collect();
        let squares = tensors.iter().flat_map(numbers).map(|x| f64::from(x) * f64::from(x));
        let expected = squares.sum::<f64>().sqrt();
        prop_assert!((euclidean_norm(&tensors) - expected).abs() <= 1e-6 * expected);
    }
}

#[test]
fn large_weights_are_shared_out_and_stay_the_same() {
    compare(ADAMW, [1, LARGE], 1e-3, 0.5);
    let (average, weight) = (tensor([LARGE], 1), tensor([LARGE], 2));
    let expected = average.clone() - (average.clone() - weight.clone()).mul_scalar(1.0 - 0.75);
    let average = moving_average(average, weight, 0.75);
    assert_eq!(numbers(&average), numbers(&expected));
}

#[test]
fn the_norm_does_not_depend_on_the_threads() {
    let tensors = [tensor([LARGE], 1), tensor([5], 2), tensor([LARGE], 3)];
    let on = |threads| on_threads(threads, || euclidean_norm(&tensors));
    assert_eq!(on(1).to_bits(), on(3).to_bits());
}

#[test]
fn a_step_of_the_weights_needs_no_new_memory() {
    let (weight, state) = ADAMW.step(1e-3, 1.0, tensor([7, 9], 0), tensor([7, 9], 1), None);
    let momentum = state.expect("a state").momentum;
    let gradient = tensor([7, 9], 2);
    let places = [
        place(&gradient),
        place(&momentum.moment_1),
        place(&momentum.moment_2),
    ];
    let state = Some(AdamWState::new(momentum));
    let (weight, state) = ADAMW.step(1e-3, 1.0, weight, gradient, state);
    let momentum = state.expect("a state").momentum;
    let after = [
        place(&weight),
        place(&momentum.moment_1),
        place(&momentum.moment_2),
    ];
    assert_eq!(after, places);
}

#[test]
fn tensors_that_others_hold_are_left_alone() {
    let shape = [5, 6];
    let (weight, gradient, average) = (tensor(shape, 1), tensor(shape, 2), tensor(shape, 3));
    let before = [&weight, &gradient, &average].map(numbers);
    let (moved, state) = ADAMW.step(1e-1, 1.0, weight.clone(), gradient.clone(), None);
    let moment = state.as_ref().expect("a state").momentum.moment_1.clone();
    let moment_before = numbers(&moment);
    ADAMW.step(1e-1, 1.0, moved, gradient.clone(), state);
    moving_average(average.clone(), weight.clone(), 0.5);
    assert_eq!([&weight, &gradient, &average].map(numbers), before);
    assert_eq!(numbers(&moment), moment_before);
}

#[test]
fn any_layout_and_number_format_is_taken() {
    let (weight, gradient) = (tensor([4, 7], 1), tensor([7, 4], 2).transpose());
    let (ours, _) = ADAMW.step(1e-2, 0.5, weight.clone(), gradient.clone(), None);
    let scaled = gradient.clone().mul_scalar(0.5);
    let (burns_own, _) = burns(ADAMW).step(1e-2, weight.clone(), scaled, None);
    assert_eq!(numbers(&ours), numbers(&burns_own));
    let average = moving_average(weight.clone(), gradient.clone(), 0.25);
    let expected = weight.clone() - (weight.clone() - gradient.clone()).mul_scalar(0.75);
    assert_eq!(numbers(&average), numbers(&expected));

    let [weight, gradient] = [weight, gradient].map(|tensor| tensor.cast(DType::F64));
    let (double, _) = ADAMW.step(1e-2, 0.5, weight.clone(), gradient.clone(), None);
    assert_eq!(double.dtype(), DType::F64);
    let largest = (double.cast(DType::F32) - ours).abs().max();
    assert!(largest.into_scalar::<f32>() < 1e-6);
    let double = moving_average(weight, gradient.clone(), 0.25).cast(DType::F32);
    assert!((double - expected).abs().max().into_scalar::<f32>() < 1e-6);
    let norm = euclidean_norm(&[gradient.clone().reshape([28])]);
    let single = euclidean_norm(&[gradient.cast(DType::F32).reshape([28])]);
    assert!((norm - single).abs() < 1e-6);
}

#[test]
fn a_number_that_is_not_finite_shows_in_the_norm() {
    let bad = Tensor::<1>::from_floats([1.0, f32::NAN], &Device::flex());
    assert!(!euclidean_norm(&[tensor([9], 1), bad]).is_finite());
}
