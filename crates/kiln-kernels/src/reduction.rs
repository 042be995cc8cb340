//! Sums whose order never changes.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::instructions::vectorized;

/// Positions that are summed before they are added to the total, so that long sums lose little precision.
const POSITIONS_AT_ONCE: usize = 64;

/// Vectors of channels that are summed side by side.
const VECTORS: usize = 4;

/// Some channels of an image.
#[derive(Clone, Copy)]
pub(crate) struct Channels<'a> {
    /// `[positions, all channels]`
    pub(crate) image: &'a [f32],
    pub(crate) all: usize,
    pub(crate) first: usize,
}

/// Adds to `sums`, one for each of `channels`, a term of the number at each position, and of the channel's number in
/// `parameter`.
#[inline(always)]
pub(crate) fn add_channel_sums<S: Simd>(
    simd: S,
    channels: Channels,
    parameter: &[f32],
    sums: &mut [f32],
    term: impl Fn(S::f32s, S::f32s) -> S::f32s,
) {
    let Channels { image, all, first } = channels;
    let width = VECTORS * S::F32_LANES;
    let whole = sums.len() / width * width;
    for block in image.chunks(POSITIONS_AT_ONCE * all) {
        let positions = || block.chunks_exact(all).map(|position| &position[first..]);
        for first in (0..whole).step_by(width) {
            let (parameter, _) = S::as_simd_f32s(&parameter[first..first + width]);
            let mut totals = [simd.splat_f32s(0.0); VECTORS];
            for position in positions() {
                let (numbers, _) = S::as_simd_f32s(&position[first..first + width]);
                let vectors = numbers.iter().zip(parameter);
                for (total, (number, parameter)) in totals.iter_mut().zip(vectors) {
                    *total = simd.add_f32s(*total, term(*number, *parameter));
                }
            }
            let (sums, _) = S::as_mut_simd_f32s(&mut sums[first..first + width]);
            for (sum, total) in sums.iter_mut().zip(totals) {
                *sum = simd.add_f32s(*sum, total);
            }
        }
        for first in (whole..sums.len()).step_by(S::F32_LANES) {
            let range = first..(first + S::F32_LANES).min(sums.len());
            let parameter = simd.partial_load_f32s(&parameter[range.clone()]);
            let mut total = simd.splat_f32s(0.0);
            for position in positions() {
                let number = simd.partial_load_f32s(&position[range.clone()]);
                total = simd.add_f32s(total, term(number, parameter));
            }
            let sums = &mut sums[range];
            let sum = simd.add_f32s(simd.partial_load_f32s(sums), total);
            simd.partial_store_f32s(sums, sum);
        }
    }
}

/// Channels of an image that one task sums: all, or a few cache lines if there are fewer images than threads.
pub(crate) fn channels_of_task(images: usize, channels: usize) -> usize {
    match images >= rayon::current_num_threads() {
        true => channels,
        false => 64,
    }
}

/// The sums `[batch, channels]` over the positions of `images`, `[batch, positions, channels]`.
pub(crate) fn image_sums(images: &[f32], positions: usize, channels: usize) -> Vec<f32> {
    struct Sum<'a> {
        channels: Channels<'a>,
        sums: &'a mut [f32],
    }

    impl WithSimd for Sum<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let nothing = vec![0.0; self.sums.len()];
            add_channel_sums(simd, self.channels, &nothing, self.sums, |x, _| x);
        }
    }

    let image_len = positions * channels;
    let count = images.len() / image_len;
    let step = channels_of_task(count, channels);
    let mut sums = vec![0.0; count * channels];
    sums.par_chunks_exact_mut(channels)
        .zip(images.par_chunks_exact(image_len))
        .for_each(|(sums, image)| {
            let parts = sums.par_chunks_mut(step).enumerate();
            parts.for_each(|(part, sums)| {
                let channels = Channels {
                    image,
                    all: channels,
                    first: part * step,
                };
                vectorized(Sum { channels, sums });
            });
        });
    sums
}

/// The sum of `term(left, right)` over pairs of numbers.
///
/// 64 partial sums run side by side: vectors for the compiler, and a smaller error than one sum would have. Call it
/// from vectorized code.
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
    fn channels_are_summed_over_every_position_once() {
        for positions in [1usize, 2, 3, 31, 32, 33, 100] {
            let image: Vec<f32> = (0..3 * positions).map(|index| index as f32).collect();
            let sums = image_sums(&image, positions, 3);
            for (channel, sum) in sums.iter().enumerate() {
                let expected = 3 * positions * (positions - 1) / 2 + channel * positions;
                assert_eq!(*sum as usize, expected);
            }
        }
    }

    #[test]
    fn rows_are_summed_by_column() {
        assert_eq!(sum_of_rows(&[1.0, 2.0, 3.0, 4.0], 2), [4.0, 6.0]);
    }
}
