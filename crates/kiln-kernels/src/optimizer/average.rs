//! A step of an exponential moving average over plain arrays.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;
use crate::instructions::vectorized;

/// Writes `average - rate (average - weight)` to `new`. All three have one length.
pub(crate) fn follow(average: &[f32], weight: &[f32], rate: f32, new: &mut [f32]) {
    let chunk = |((average, weight), new)| {
        vectorized(Chunk {
            average,
            weight,
            rate,
            new,
        });
    };
    // A single chunk is not worth waking another thread.
    if average.len() <= CHUNK {
        return chunk(((average, weight), new));
    }
    average
        .par_chunks(CHUNK)
        .zip(weight.par_chunks(CHUNK))
        .zip(new.par_chunks_mut(CHUNK))
        .for_each(chunk);
}

struct Chunk<'a> {
    average: &'a [f32],
    weight: &'a [f32],
    rate: f32,
    new: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((average, weight), new) in self.average.iter().zip(self.weight).zip(self.new) {
            *new = average - (average - weight) * self.rate;
        }
    }
}
