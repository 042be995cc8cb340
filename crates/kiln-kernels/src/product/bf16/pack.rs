//! Matrices of bf16 numbers in the order in which tiles read them.

use pulp::Simd;

use super::{RIGHT_STEP, TILE};
use crate::product::{PanelsShape, pack_columns};
use crate::scratch::{self, Scratch};

/// The nearest bf16 number, in the lower 16 bits; halves go to even ones.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // Rounding up could carry what is not a number over into one.
    let quiet_nan = bits | 0x0040_0000;
    (if value.is_nan() { quiet_nan } else { nearest }) >> 16
}

#[inline(always)]
pub(super) fn round_up(values: &[f32], rounded_values: &mut [u16]) {
    for (rounded_value, value) in rounded_values.iter_mut().zip(values) {
        *rounded_value = rounded(*value) as u16;
    }
}

/// A right factor.
#[derive(Debug)]
pub(crate) struct Bf16Panels {
    depth: usize,
    columns: usize,
    /// Pairs of numbers, panel by panel.
    pairs: Vec<f32>,
}

impl Bf16Panels {
    /// The matrix whose row `k` is `row(k)`.
    #[inline(always)]
    pub(crate) fn pack<'a>(depth: usize, columns: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        let steps = depth.div_ceil(TILE).max(1);
        let mut pairs = scratch::array(columns.div_ceil(TILE) * steps * RIGHT_STEP);
        let packed = scratch::as_u32(&mut pairs);
        let zeros = [0.0; TILE];
        for (panel, packed) in packed.chunks_exact_mut(steps * RIGHT_STEP).enumerate() {
            let from = panel * TILE;
            let to = (from + TILE).min(columns);
            for (pair, _) in (0..steps * TILE).step_by(2).enumerate() {
                let part = |k: usize| {
                    if k < depth {
                        &row(k)[from..to]
                    } else {
                        &zeros[..to - from]
                    }
                };
                let (even, odd) = (part(2 * pair), part(2 * pair + 1));
                // [step, half of the columns, pair, column]
                let step = &mut packed[pair / 16 * RIGHT_STEP..][..RIGHT_STEP];
                for (half, tile) in step.chunks_exact_mut(RIGHT_STEP / 2).enumerate() {
                    let line = &mut tile[pair % 16 * 16..][..16];
                    let from = (half * 16).min(even.len());
                    let to = (from + 16).min(even.len());
                    let (even, odd) = (&even[from..to], &odd[from..to]);
                    let (used, filling) = line.split_at_mut(even.len());
                    for ((pair, even), odd) in used.iter_mut().zip(even).zip(odd) {
                        *pair = rounded(*even) | rounded(*odd) << 16;
                    }
                    filling.fill(0);
                }
            }
        }
        Self {
            depth,
            columns,
            pairs,
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// 32 columns each.
    pub(super) fn panels(&self) -> impl Iterator<Item = &[u32]> {
        let steps = self.depth.div_ceil(TILE).max(1);
        bytemuck::cast_slice(&self.pairs).chunks_exact(steps * RIGHT_STEP)
    }

    pub(crate) fn recycle(self) {
        scratch::recycle(self.pairs);
    }
}

/// A left factor from its columns: `left[k, r]` is `a[starts[r] + k]` for `k` in `0..height`, the rows of `left` being
/// `stride` numbers apart. It is filled up with zeros.
#[inline(always)]
pub(super) fn rounded_rows<S: Simd>(
    simd: S,
    a: &[f32],
    starts: &[usize],
    height: usize,
    left: &mut [u16],
    stride: usize,
) {
    let shape = PanelsShape::new::<S>(height, stride);
    let mut columns = Scratch::new(shape.len());
    let row = |r: usize| &a[starts[r]..][..height];
    pack_columns(simd, shape, &mut columns, starts.len(), row, 1.0);
    for panel in shape.panels() {
        let width = panel.range.len() / height;
        let rows = columns[panel.range].chunks_exact(width);
        for (values, left) in rows.zip(left.chunks_exact_mut(stride)) {
            let left = &mut left[panel.columns.clone()];
            round_up(&values[..left.len()], left);
        }
    }
    left[height * stride..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let special = [
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1.003_906_3,
            1.011_718_8,
        ];
        let mut state = 1u32;
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(state)
        });
        for value in special.into_iter().chain(random.take(100_000)) {
            let ours = rounded(value) as u16;
            let expected = half::bf16::from_f32(value);
            if value.is_nan() {
                assert!(half::bf16::from_bits(ours).is_nan());
            } else {
                assert_eq!(ours, expected.to_bits(), "{value}");
            }
        }
    }
}
