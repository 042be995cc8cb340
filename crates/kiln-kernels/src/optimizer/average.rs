//! A step of an exponential moving average over plain arrays.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;
use crate::instructions::vectorized;

/// Takes `average` to `average - rate (average - weight)`. Both have one length.
pub(crate) fn follow(average: &mut [f32], weight: &[f32], rate: f32) {
    let chunk = |(average, weight)| {
        vectorized(Chunk {
            average,
            weight,
            rate,
        });
    };
    // A single chunk is not worth waking another thread.
    if average.len() <= CHUNK {
        return chunk((average, weight));
    }
    average
        .par_chunks_mut(CHUNK)
        .zip(weight.par_chunks(CHUNK))
        .for_each(chunk);
}

struct Chunk<'a> {
    average: &'a mut [f32],
    weight: &'a [f32],
    rate: f32,
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (average, weight) in self.average.iter_mut().zip(self.weight) {
            *average -= (*average - weight) * self.rate;
        }
    }
}
