//! The pools of one image.

use pulp::{Simd, WithSimd};

/// The sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// Height and width.
    pub(crate) size_in: [usize; 2],
    /// Height and width.
    pub(crate) size_out: [usize; 2],
    pub(crate) channels: usize,
    /// Of the squares.
    pub(crate) side: usize,
}

impl Pool {
    /// The places in an image of the pixels of each square, as the numbers of their first channels.
    #[inline(always)]
    fn square(self, output: usize) -> impl Iterator<Item = usize> {
        let [height, width] = self.size_in;
        let (top, left) = (
            2 * (output / self.size_out[1]),
            2 * (output % self.size_out[1]),
        );
        let rows = top..(top + self.side).min(height);
        let columns = left..(left + self.side).min(width);
        rows.flat_map(move |y| {
            columns
                .clone()
                .map(move |x| (y * width + x) * self.channels)
        })
    }
}

/// Neighbouring rows of the pool of one image.
pub(crate) struct Forward<'a> {
    pub(crate) pool: Pool,
    pub(crate) image: &'a [f32],
    /// The first of the rows.
    pub(crate) row: usize,
    pub(crate) output: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.pool.channels;
        let first = self.row * self.pool.size_out[1];
        for (place, output) in self.output.chunks_exact_mut(channels).enumerate() {
            let place = first + place;
            for first in (0..channels).step_by(S::F32_LANES) {
                let range = first..(first + S::F32_LANES).min(channels);
                let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
                for pixel in self.pool.square(place) {
                    let numbers = &self.image[pixel..pixel + channels][range.clone()];
                    largest = simd.max_f32s(largest, simd.partial_load_f32s(numbers));
                }
                simd.partial_store_f32s(&mut output[range], largest);
            }
        }
    }
}

/// Writes the gradient of neighbouring rows of an image, from `row` on.
pub(crate) fn backward(
    pool: Pool,
    image: &[f32],
    upstream: &[f32],
    row: usize,
    gradient: &mut [f32],
) {
    let channels = pool.channels;
    let row_len = pool.size_in[1] * channels;
    let start = row * row_len;
    let range = start..start + gradient.len();
    gradient.fill(0.0);
    // The squares that reach into these rows.
    let [rows, columns] = pool.size_out;
    let first = (row + 1).saturating_sub(pool.side).div_ceil(2);
    let end = (range.end / row_len).div_ceil(2).min(rows);
    let mut largest = vec![0.0; channels];
    let mut places = vec![0; channels];
    for output in first * columns..end * columns {
        largest.fill(f32::NEG_INFINITY);
        // Where no number is larger than that.
        places.fill(pool.square(output).next().unwrap_or_default());
        for pixel in pool.square(output) {
            let numbers = &image[pixel..pixel + channels];
            let known = largest.iter_mut().zip(&mut places);
            for (&number, (largest, place)) in numbers.iter().zip(known) {
                let is_larger = number > *largest;
                *largest = if is_larger { number } else { *largest };
                *place = if is_larger { pixel } else { *place };
            }
        }
        let upstream = &upstream[output * channels..][..channels];
        for (channel, (&place, &upstream)) in places.iter().zip(upstream).enumerate() {
            if range.contains(&place) {
                gradient[place - start + channel] += upstream;
            }
        }
    }
}
