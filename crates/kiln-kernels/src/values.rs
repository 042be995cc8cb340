//! Numbers that the backward pass reads again: as they were, or rounded to half their size.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::arrays::{self, Array};
use crate::instructions::vectorized;

/// Numbers, read as `f32`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    Exact(&'a [f32]),
    /// As f16 bits.
    Rounded(&'a [u16]),
}

impl<'a> Values<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Exact(values) => values.len(),
            Self::Rounded(values) => values.len(),
        }
    }

    /// Those in `range`.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Exact(values) => Self::Exact(&values[range]),
            Self::Rounded(values) => Self::Rounded(&values[range]),
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
                    *exact = exact_of(*rounded);
                }
                memory
            }
        }
    }
}

/// Numbers rounded to f16: to 11 significant bits, and to the largest one, 65,504, if they are beyond it.
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
                for (rounded, exact) in self.1.iter_mut().zip(self.0) {
                    *rounded = rounded_of(*exact);
                }
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

/// An f16 number has a smaller exponent than the same `f32` number has, by this power of two.
const EXPONENTS: f32 = f32::from_bits((127 + 112) << 23);

/// Bits at the end of an `f32` number that an f16 number has not.
const LESS_BITS: u32 = 13;

/// The bits of the nearest f16 number. Ties round to even.
///
/// By arithmetic that becomes vector instructions, as the processor's own conversion would not without `unsafe`.
#[inline(always)]
fn rounded_of(exact: f32) -> u16 {
    const LARGEST: f32 = 65_504.0;
    let size = exact.abs();
    let size = if size > LARGEST { LARGEST } else { size };
    let bits = (size / EXPONENTS).to_bits();
    let nearest = bits + ((1 << (LESS_BITS - 1)) - 1) + ((bits >> LESS_BITS) & 1);
    let sign = (exact.to_bits() >> 16) & 0x8000;
    ((nearest >> LESS_BITS) | sign) as u16
}

/// The number of f16 bits.
#[inline(always)]
fn exact_of(rounded: u16) -> f32 {
    let bits = u32::from(rounded);
    let size = f32::from_bits((bits & 0x7FFF) << LESS_BITS) * EXPONENTS;
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_where_they_were_written() {
        let exact: Vec<f32> = (0..50_001).map(|i| (i as f32 * 0.37).sin()).collect();
        let rounded = Rounded::new(&exact);
        let mut memory = vec![0.0; 1000];
        let read = rounded.values().read(40_001..40_901, &mut memory);
        for (near, exact) in read.iter().zip(&exact[40_001..]) {
            assert!((near - exact).abs() <= exact.abs() / 2048.0);
        }
        assert_eq!(rounded.values().len(), exact.len());
    }

    #[test]
    fn every_f16_number_stays_as_it_is() {
        let finite = (0..=u16::MAX).filter(|bits| bits & 0x7C00 != 0x7C00);
        assert!(
            finite
                .into_iter()
                .all(|bits| rounded_of(exact_of(bits)) == bits)
        );
        let known = [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65_504.0),
            (1, 2f32.powi(-24)),
        ];
        for (bits, number) in known {
            assert_eq!(exact_of(bits), number);
        }
        assert_eq!(exact_of(rounded_of(-1e30)), -65_504.0);
    }

    proptest! {
        #[test]
        fn the_nearest_number_is_taken(exact in -70_000.0f32..70_000.0, power in 0i32..30) {
            let exact = exact / 2f32.powi(power);
            let rounded = exact_of(rounded_of(exact));
            let step = (exact.abs() / 1024.0).max(2f32.powi(-24));
            let limited = exact.clamp(-65_504.0, 65_504.0);
            prop_assert!((rounded - limited).abs() <= step / 2.0, "{} for {}", rounded, exact);
        }
    }
}
