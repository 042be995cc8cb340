//! A step of an exponential moving average over plain arrays.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;
use crate::arrays::{self, Array};
use crate::instructions::vectorized;

/// `average - rate (average - weight)`. All have one length.
pub(crate) fn followed(average: &[f32], weight: &[f32], rate: f32) -> Array {
    let mut followed = arrays::array(average.len());
    let chunk = |((followed, average), weight)| {
        vectorized(Chunk {
            followed,
            average,
            weight,
            rate,
        });
    };
    // A single chunk is not worth waking another thread.
    if average.len() <= CHUNK {
        chunk(((&mut followed[..], average), weight));
        return followed;
    }
    followed
        .par_chunks_mut(CHUNK)
        .zip(average.par_chunks(CHUNK))
        .zip(weight.par_chunks(CHUNK))
        .for_each(chunk);
    followed
}

struct Chunk<'a> {
    followed: &'a mut [f32],
    average: &'a [f32],
    weight: &'a [f32],
    rate: f32,
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let from = self.average.iter().zip(self.weight);
        for (followed, (average, weight)) in self.followed.iter_mut().zip(from) {
            *followed = average - (average - weight) * self.rate;
        }
    }
}
