//! Products of tiles in plain arithmetic.

use super::{Left, RIGHT_STEP, SUMS, TILE};

/// `sums += left right`.
#[inline(always)]
pub(super) fn multiply_add(left: Left, right: &[u32], sums: &mut [f32; SUMS]) {
    for (step, right) in right.chunks_exact(RIGHT_STEP).enumerate() {
        let (near, far) = right.split_at(RIGHT_STEP / 2);
        let rows = left.values.chunks(left.stride);
        for (row, sums) in rows.zip(sums.chunks_exact_mut(TILE)) {
            let row = &row[step * TILE..][..TILE];
            let (near_sums, far_sums) = sums.split_at_mut(TILE / 2);
            for (half, sums) in [(near, near_sums), (far, far_sums)] {
                for (pair, pairs) in row.chunks_exact(2).zip(half.chunks_exact(TILE / 2)) {
                    let [even, odd] = [pair[0], pair[1]].map(|bits| from_bits(u32::from(bits)));
                    for (sum, pair) in sums.iter_mut().zip(pairs) {
                        *sum += even * from_bits(pair & 0xFFFF);
                        *sum += odd * from_bits(pair >> 16);
                    }
                }
            }
        }
    }
}

/// `out[k, n] += a[r, k] b[r, n]`, pairs of both.
#[inline(always)]
pub(super) fn add_outer_products(
    a: &[u32],
    a_step: usize,
    b: &[u32],
    out: &mut [f32],
    columns: usize,
) {
    for (a, b) in a.chunks(a_step).zip(b.chunks_exact(columns)) {
        for (a, out) in a.iter().zip(out.chunks_exact_mut(columns)) {
            let [even, odd] = [a & 0xFFFF, a >> 16].map(from_bits);
            for (sum, b) in out.iter_mut().zip(b) {
                *sum += even * from_bits(b & 0xFFFF);
                *sum += odd * from_bits(b >> 16);
            }
        }
    }
}

/// A bf16 number is the upper half of an `f32`.
#[inline(always)]
fn from_bits(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}
