//! The distance of two maps whose positions are brought to unit length.

use pulp::{Simd, WithSimd};

/// The sum of the distances of some positions of two maps, `[positions, channels]`.
pub(crate) struct Forward<'a> {
    pub(crate) maps: &'a [f32],
    pub(crate) others: &'a [f32],
    pub(crate) weights: &'a [f32],
    pub(crate) smallest: f32,
}

impl WithSimd for Forward<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let channels = self.weights.len();
        let pairs = self.maps.chunks_exact(channels);
        let pairs = pairs.zip(self.others.chunks_exact(channels));
        let mut total = 0.0;
        for (f, g) in pairs {
            let scale_f = inverse_norm(simd, f, self.smallest);
            let scale_g = inverse_norm(simd, g, self.smallest);
            let (a, b) = (simd.splat_f32s(scale_f), simd.splat_f32s(scale_g));
            let mut sum = simd.splat_f32s(0.0);
            for first in (0..channels).step_by(S::F32_LANES) {
                let range = first..(first + S::F32_LANES).min(channels);
                let f = simd.partial_load_f32s(&f[range.clone()]);
                let g = simd.partial_load_f32s(&g[range.clone()]);
                let w = simd.partial_load_f32s(&self.weights[range]);
                let difference = simd.sub_f32s(simd.mul_f32s(f, a), simd.mul_f32s(g, b));
                let weighted = simd.mul_f32s(w, difference);
                sum = simd.mul_add_f32s(weighted, difference, sum);
            }
            total += f64::from(simd.reduce_sum_f32s(sum));
        }
        total
    }
}

/// The gradient of the distance of some positions with respect to `maps`: exchanged maps give the other one.
pub(crate) struct Backward<'a> {
    pub(crate) of: Forward<'a>,
    /// The gradient of each position's distance: of the mean's, divided by the image's positions.
    pub(crate) upstream: f32,
    pub(crate) gradient: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    /// With a = 1 / |f| and h = the gradient at f / |f|: `a (h - f a² (h · f))`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward {
            maps,
            others,
            weights,
            smallest,
        } = self.of;
        let channels = weights.len();
        let factor = simd.splat_f32s(2.0 * self.upstream);
        let pairs = maps
            .chunks_exact(channels)
            .zip(others.chunks_exact(channels));
        for ((f, g), gradient) in pairs.zip(self.gradient.chunks_exact_mut(channels)) {
            let scale = inverse_norm(simd, f, smallest);
            let a = simd.splat_f32s(scale);
            let b = simd.splat_f32s(inverse_norm(simd, g, smallest));
            let mut along = simd.splat_f32s(0.0);
            for first in (0..channels).step_by(S::F32_LANES) {
                let range = first..(first + S::F32_LANES).min(channels);
                let f = simd.partial_load_f32s(&f[range.clone()]);
                let g = simd.partial_load_f32s(&g[range.clone()]);
                let w = simd.partial_load_f32s(&weights[range.clone()]);
                let difference = simd.sub_f32s(simd.mul_f32s(f, a), simd.mul_f32s(g, b));
                let h = simd.mul_f32s(simd.mul_f32s(factor, w), difference);
                along = simd.mul_add_f32s(h, simd.mul_f32s(f, a), along);
                simd.partial_store_f32s(&mut gradient[range], h);
            }
            let along = simd.splat_f32s(simd.reduce_sum_f32s(along));
            for first in (0..channels).step_by(S::F32_LANES) {
                let range = first..(first + S::F32_LANES).min(channels);
                let f = simd.partial_load_f32s(&f[range.clone()]);
                let h = simd.partial_load_f32s(&gradient[range.clone()]);
                let across = simd.sub_f32s(h, simd.mul_f32s(simd.mul_f32s(f, a), along));
                simd.partial_store_f32s(&mut gradient[range], simd.mul_f32s(a, across));
            }
        }
    }
}

#[inline(always)]
fn inverse_norm<S: Simd>(simd: S, position: &[f32], smallest: f32) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for first in (0..position.len()).step_by(S::F32_LANES) {
        let range = first..(first + S::F32_LANES).min(position.len());
        let numbers = simd.partial_load_f32s(&position[range]);
        sum = simd.mul_add_f32s(numbers, numbers, sum);
    }
    1.0 / (simd.reduce_sum_f32s(sum) + smallest * smallest).sqrt()
}
