//! Numbers that the backward pass reads again: as they were, or rounded to half their size.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::arrays::{self, Array};
use crate::instructions::vectorized;
use crate::product::round_all;

/// Numbers, read as `f32`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    Exact(&'a [f32]),
    /// As bf16.
    Rounded(&'a [u16]),
}

impl<'a> Values<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Exact(values) => values.len(),
            Self::Rounded(values) => values.len(),
        }
    }

    /// The numbers in `range`. `memory` is for as many, if they are not there as `f32`.
    #[inline(always)]
    pub(crate) fn read<'b>(self, range: Range<usize>, memory: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::Exact(values) => &values[range],
            Self::Rounded(values) => {
                let memory = &mut memory[..range.len()];
                for (exact, rounded) in memory.iter_mut().zip(&values[range]) {
                    *exact = f32::from_bits(u32::from(*rounded) << 16);
                }
                memory
            }
        }
    }
}

/// Numbers rounded to bf16.
#[derive(Debug)]
pub(crate) struct Rounded {
    /// Two numbers in the place of one.
    memory: Array,
    len: usize,
}

impl Rounded {
    pub(crate) fn new(values: &[f32]) -> Self {
        struct Round<'a>(&'a [f32], &'a mut [u16]);
        impl WithSimd for Round<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) {
                round_all(self.0, self.1);
            }
        }
        const AT_ONCE: usize = 1 << 14;
        let len = values.len();
        let mut memory = arrays::array(len.div_ceil(2));
        bytemuck::cast_slice_mut(&mut memory)[..len]
            .par_chunks_mut(AT_ONCE)
            .zip(values.par_chunks(AT_ONCE))
            .for_each(|(rounded, values)| vectorized(Round(values, rounded)));
        Self { memory, len }
    }

    pub(crate) fn values(&self) -> Values<'_> {
        Values::Rounded(&bytemuck::cast_slice(&self.memory)[..self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_numbers_are_near_and_stay_as_they_are() {
        let exact: Vec<f32> = (0..50_001).map(|i| (i as f32 * 0.37).sin()).collect();
        let rounded = Rounded::new(&exact);
        let mut memory = vec![0.0; 1000];
        let read = rounded.values().read(40_001..40_901, &mut memory).to_vec();
        for (near, exact) in read.iter().zip(&exact[40_001..]) {
            assert!((near - exact).abs() <= exact.abs() / 256.0);
        }
        let again = Rounded::new(&read);
        assert_eq!(again.values().read(0..900, &mut memory), read);
        assert_eq!(rounded.values().len(), exact.len());
    }
}
