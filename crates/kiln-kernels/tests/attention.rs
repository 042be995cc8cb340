//! Attention, forward and gradient, against Burn's own operators on the same backend.

mod common;

use burn::tensor::{Device, Tensor, TensorData, activation};
use common::{assert_close, numbers, on_threads};
use kiln_kernels::{Precision, attention, with_exact_precision};
use proptest::prelude::*;

/// Numbers between -2 and 2 that look random.
fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    common::tensor(shape, seed, device) * 2.0
}

/// `softmax(Q K^T / sqrt(head_channels)) V` as defined.
fn composition(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, width] = qkv.dims();
    let channels = width / (3 * heads);
    let split = qkv
        .reshape([batch, tokens, 3, heads, channels])
        .permute([2, 0, 3, 1, 4]);
    let [query, key, value] = [0, 1, 2].map(|part| -> Tensor<4> {
        split
            .clone()
            .narrow(0, part, 1)
            .reshape([batch, heads, tokens, channels])
    });
    let scores = query.matmul(key.swap_dims(2, 3)) / (channels as f64).sqrt();
    activation::softmax(scores, 3)
        .matmul(value)
        .swap_dims(1, 2)
        .reshape([batch, tokens, heads * channels])
}

/// Output and gradient.
fn run(shape: [usize; 3], attend: impl Fn(Tensor<3>) -> Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let device = Device::flex().autodiff();
    let qkv = tensor(shape, 1, &device).require_grad();
    let output = attend(qkv.clone());
    let loss = output.clone() * tensor(output.dims(), 2, &device);
    let gradients = loss.sum().backward();
    let gradient = qkv.grad(&gradients).expect("the input has a gradient");
    (output.inner(), gradient)
}

fn check(batch: usize, tokens: usize, heads: usize, channels: usize) {
    let shape = [batch, tokens, 3 * heads * channels];
    let ours = run(shape, |qkv| attention(qkv, heads));
    let burns = run(shape, |qkv| composition(qkv, heads));
    let what = format!("of {batch} x {tokens} tokens, {heads} x {channels} channels");
    assert_close(&ours.0, &burns.0, 1e-3, &format!("output {what}"));
    assert_close(&ours.1, &burns.1, 1e-3, &format!("gradient {what}"));
}

proptest! {
    #[test]
    fn it_is_the_composition(
        batch in 1usize..4, tokens in 1usize..=70, heads in 1usize..=4, channels in 1usize..=40,
    ) {
        check(batch, tokens, heads, channels);
    }
}

#[test]
fn it_is_the_composition_at_the_sizes_of_the_models() {
    check(3, 16, 4, 32);
    check(2, 64, 2, 64);
    check(2, 128, 1, 128);
    check(1, 256, 1, 256);
    check(1, 300, 2, 24);
}

/// The root of the mean square.
fn size(tensor: &Tensor<3>) -> f32 {
    tensor.clone().square().mean().sqrt().into_scalar()
}

#[test]
fn bf16_changes_it_by_its_rounding_errors_only() {
    let device = Device::flex();
    for (batch, tokens, heads, channels) in [
        (2, 64, 4, 32),
        (1, 1024, 3, 32),
        (1, 256, 1, 256),
        (3, 100, 2, 40),
        (1, 65, 1, 8),
    ] {
        let qkv = tensor([batch, tokens, 3 * heads * channels], 1, &device);
        let exact = attention(qkv.clone(), heads);
        assert_close(&exact, &composition(qkv.clone(), heads), 1e-3, "exact");
        let rounded = with_exact_precision(Precision::Bf16, || attention(qkv.clone(), heads));
        let error = size(&(rounded - exact.clone())) / size(&exact);
        assert!(error > 1e-4 && error < 8e-3, "{error} with {tokens} tokens");
    }
}

#[test]
fn bf16_is_exact_where_one_token_decides() {
    let device = Device::flex();
    let (tokens, channels) = (96, 96);
    // Each query is like one key; all numbers are bf16 numbers.
    let large = Tensor::<2>::eye(tokens, &device) * 256.0;
    let values = (tensor([tokens, channels], 2, &device) * 8.0).round();
    let keys = large.clone().flip([0]);
    let qkv: Tensor<3> = Tensor::cat(vec![large, keys, values.clone()], 1).unsqueeze();
    let rounded = with_exact_precision(Precision::Bf16, || attention(qkv, 1));
    // Other tokens weigh 2^-126.
    let errors = (rounded.squeeze_dim::<2>(0) - values.flip([0])).abs();
    assert!(errors.max().into_scalar::<f32>() < 1e-30);
}

#[test]
fn few_tokens_are_multiplied_exactly() {
    let device = Device::flex();
    for (tokens, is_exact) in [(63, true), (64, false)] {
        let qkv = tensor([1, tokens, 3 * 32], 1, &device);
        let exact = numbers(&attention(qkv.clone(), 2));
        let rounded = with_exact_precision(Precision::Bf16, || attention(qkv, 2));
        assert_eq!(numbers(&rounded) == exact, is_exact, "{tokens}");
    }
}

#[test]
fn in_training_bf16_changes_nothing() {
    let shape = [1, 64, 3 * 32];
    let exact = run(shape, |qkv| attention(qkv, 2));
    let rounded = with_exact_precision(Precision::Bf16, || run(shape, |qkv| attention(qkv, 2)));
    assert_eq!(numbers(&rounded.0), numbers(&exact.0));
    assert_eq!(numbers(&rounded.1), numbers(&exact.1));
}

#[test]
fn an_image_has_the_same_bits_in_any_batch() {
    let device = Device::flex();
    for (tokens, heads, channels, precision) in [
        (16, 4, 32, Precision::F32),
        (100, 2, 7, Precision::F32),
        (100, 2, 7, Precision::Bf16),
    ] {
        let attention = |qkv| with_exact_precision(precision, || attention(qkv, heads));
        let images = tensor([9, tokens, 3 * heads * channels], 3, &device);
        let all = attention(images.clone());
        for (first, count) in [(0, 1), (8, 1), (2, 5)] {
            let some = attention(images.clone().narrow(0, first, count));
            assert_eq!(
                numbers(&some),
                numbers(&all.clone().narrow(0, first, count))
            );
        }
    }
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads() {
    let results = |threads| {
        on_threads(threads, || {
            let (output, gradient) = run([5, 130, 3 * 24], |qkv| attention(qkv, 2));
            let qkv = tensor([5, 130, 3 * 24], 1, &Device::flex());
            let rounded = with_exact_precision(Precision::Bf16, || attention(qkv, 2));
            assert_ne!(numbers(&rounded), numbers(&output));
            [numbers(&output), numbers(&gradient), numbers(&rounded)]
        })
    };
    let one = results(1);
    // With more threads than images, they share the heads.
    for threads in [2, 5, 16] {
        assert!(results(threads) == one, "{threads} threads");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let device = Device::flex().autodiff();
    let qkv = (tensor([1, 20, 24], 4, &device) * 1e4)
        .detach()
        .require_grad();
    let output = attention(qkv.clone(), 2);
    let gradients = output.clone().sum().backward();
    let gradient = qkv.grad(&gradients).expect("the input has a gradient");
    let all = numbers(&output.inner())
        .into_iter()
        .chain(numbers(&gradient));
    assert!(all.into_iter().all(f32::is_finite));
}

#[test]
fn a_query_that_is_not_a_number_spoils_only_its_own_row() {
    let mut values = numbers(&tensor([1, 5, 6], 5, &Device::flex()));
    values[2 * 6] = f32::NAN;
    let qkv = Tensor::from_data(TensorData::new(values, [1, 5, 6]), &Device::flex());
    let output = numbers(&attention(qkv, 1));
    for (index, value) in output.into_iter().enumerate() {
        assert_eq!(value.is_nan(), index / 2 == 2, "{index}");
    }
}

#[test]
fn views_are_read_in_the_order_of_their_dimensions() {
    let device = Device::flex();
    let view = tensor([2, 12, 10], 6, &device)
        .swap_dims(1, 2)
        .narrow(1, 1, 7);
    let copy = Tensor::<3>::from_data(view.to_data(), &device);
    assert_eq!(numbers(&attention(view, 2)), numbers(&attention(copy, 2)));
}

#[test]
fn without_a_gradient_none_is_kept() {
    let device = Device::flex().autodiff();
    let output = attention(tensor([2, 4, 12], 7, &device), 2);
    assert!(!output.is_require_grad());
}

#[test]
fn no_images_attend_to_nothing() {
    let none = Tensor::empty([0, 4, 12], &Device::flex());
    assert_eq!(attention(none, 2).dims(), [0, 4, 4]);
}

#[test]
#[should_panic(expected = "do not divide into queries")]
fn channels_must_divide_into_heads() {
    attention(tensor([1, 4, 12], 8, &Device::flex()), 3);
}
