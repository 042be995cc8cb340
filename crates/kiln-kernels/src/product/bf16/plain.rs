//! Products of tiles in plain arithmetic.

use super::{RIGHT_STEP, TILE};

/// `sums = left right`, as [`super::multiply`] has it.
#[inline(always)]
pub(super) fn multiply(left: &[u16], stride: usize, right: &[u32], sums: &mut [f32; TILE * TILE]) {
    sums.fill(0.0);
    for (step, right) in right.chunks_exact(RIGHT_STEP).enumerate() {
        let (near, far) = right.split_at(RIGHT_STEP / 2);
        for (left, sums) in left.chunks(stride).zip(sums.chunks_exact_mut(TILE)) {
            let left = &left[step * TILE..][..TILE];
            let (near_sums, far_sums) = sums.split_at_mut(TILE / 2);
            for (half, sums) in [(near, near_sums), (far, far_sums)] {
                for (left, pairs) in left.chunks_exact(2).zip(half.chunks_exact(TILE / 2)) {
                    let [even, odd] =
                        [left[0], left[1]].map(|bits| f32::from_bits(u32::from(bits) << 16));
                    for (sum, pair) in sums.iter_mut().zip(pairs) {
                        *sum += even * f32::from_bits(pair << 16);
                        *sum += odd * f32::from_bits(pair & 0xFFFF_0000);
                    }
                }
            }
        }
    }
}
