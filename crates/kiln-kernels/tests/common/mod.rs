//! Numbers for tests, and the meaning of "equal".
#![allow(dead_code, reason = "no test program uses all of it")]

use burn::tensor::{Device, Tensor, TensorData};

/// Numbers between -1 and 1 that look random.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let len = shape.iter().product();
    Tensor::from_data(TensorData::new(values(len, seed), shape), device)
}

pub fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().expect("tensors are f32 here")
}

/// Equal within 1e-5 of the largest number, or of the `spread` of the sums: sums in another order may differ by that
/// much, even if a sum happens to cancel.
pub fn assert_close<const D: usize>(ours: &Tensor<D>, burns: &Tensor<D>, spread: f32, what: &str) {
    assert_eq!(ours.dims(), burns.dims(), "{what}");
    let (ours, burns) = (numbers(ours), numbers(burns));
    let largest = burns
        .iter()
        .fold(spread, |largest, value| largest.max(value.abs()));
    for (index, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        assert!(
            (ours - burns).abs() <= 1e-5 * largest,
            "{what} {index}: {ours} instead of {burns}"
        );
    }
}

/// The typical distance from zero of a sum of `terms` products of two random numbers between -1 and 1.
pub fn spread(terms: usize) -> f32 {
    (terms as f32).sqrt() / 3.0
}

/// The result of `work` on so many threads.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads can be started").install(work)
}
