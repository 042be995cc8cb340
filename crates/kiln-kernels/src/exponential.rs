//! Powers of two and the logistic sigmoid of whole vectors.
//!
//! The standard library's `exp` is a call per number. This is plain arithmetic, a dozen operations for all numbers of a
//! register.

use pulp::Simd;

/// `1.5 * 2^23`: adding it to a small number leaves the nearest integer in the low bits.
const ROUNDING: f32 = 12_582_912.0;

/// `2^x` for `x <= 0`, but at least `2^-126`, the smallest normal number.
///
/// `2^x = 2^n 2^f` with `n` the integer nearest to `x`; `2^f` is the polynomial of degree 6 of the Cephes library's
/// `exp2f`. The relative error is below 2e-7.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let lowest = simd.splat_f32s(-126.0);
    // A comparison with NaN is false, so NaN stays NaN.
    let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
    let rounding = simd.splat_f32s(ROUNDING);
    let shifted = simd.add_f32s(x, rounding);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, rounding));
    let mut polynomial = simd.splat_f32s(1.535_336_2e-4);
    for coefficient in [
        1.339_887_4e-3,
        9.618_437e-3,
        5.550_332_5e-2,
        2.402_264_8e-1,
        core::f32::consts::LN_2,
        1.0,
    ] {
        polynomial = simd.mul_add_e_f32s(polynomial, f, simd.splat_f32s(coefficient));
    }
    let n = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power_of_two = simd.wrapping_dyn_shl_u32s(n, simd.splat_u32s(23));
    simd.mul_f32s(polynomial, simd.transmute_f32s_u32s(power_of_two))
}

/// `1 / (1 + e^-x)` of each number of a vector.
///
/// With `e = e^-|x|`, which cannot overflow, it is `1 / (1 + e)` or, for negative `x`, `e / (1 + e)`.
#[inline(always)]
pub(crate) fn sigmoids<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let negative = simd.less_than_f32s(x, zero);
    let minus_absolute = simd.select_f32s(negative, x, simd.sub_f32s(zero, x));
    let log2_e = simd.splat_f32s(core::f32::consts::LOG2_E);
    let e = exp2(simd, simd.mul_f32s(minus_absolute, log2_e));
    simd.div_f32s(simd.select_f32s(negative, e, one), simd.add_f32s(one, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::vectorized;
    use pulp::WithSimd;

    /// Powers of two of all numbers.
    struct Powers(Vec<f32>);

    impl WithSimd for Powers {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
            let (whole, rest) = S::as_mut_simd_f32s(&mut self.0);
            for x in whole {
                *x = exp2(simd, *x);
            }
            let last = exp2(simd, simd.partial_load_f32s(rest));
            simd.partial_store_f32s(rest, last);
            self.0
        }
    }

    #[test]
    fn exp2_is_accurate_wherever_the_result_is_a_normal_number() {
        let x: Vec<f32> = (0..=126_000).map(|step| step as f32 / -1000.0).collect();
        let powers = vectorized(Powers(x.clone()));
        for (x, power) in x.into_iter().zip(powers) {
            let exact = f64::from(x).exp2();
            assert!(
                (f64::from(power) / exact - 1.0).abs() < 2e-7,
                "{x}: {power}"
            );
        }
        assert_eq!(vectorized(Powers(vec![0.0; 40])), [1.0; 40]);
    }

    #[test]
    fn exp2_of_numbers_far_below_zero_is_tiny_and_of_nan_nan() {
        let powers = vectorized(Powers(vec![-1e30, f32::NEG_INFINITY, f32::NAN]));
        assert_eq!(powers[..2], [f32::MIN_POSITIVE; 2]);
        assert!(powers[2].is_nan());
    }

    /// Sigmoids of all numbers.
    struct Sigmoids(Vec<f32>);

    impl WithSimd for Sigmoids {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
            for chunk in self.0.chunks_mut(S::F32_LANES) {
                let result = sigmoids(simd, simd.partial_load_f32s(chunk));
                simd.partial_store_f32s(chunk, result);
            }
            self.0
        }
    }

    #[test]
    fn sigmoids_are_accurate_and_saturate() {
        let x: Vec<f32> = (-2000..=2000).map(|step| step as f32 / 100.0).collect();
        for (x, sigmoid) in x.iter().zip(vectorized(Sigmoids(x.clone()))) {
            let exact = 1.0 / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(sigmoid) / exact - 1.0).abs() < 1e-6, "{x}");
        }
        let extremes = vectorized(Sigmoids(vec![1e30, -1e30, f32::NAN]));
        assert_eq!(extremes[0], 1.0);
        assert!(extremes[1] < 1e-37 && extremes[2].is_nan());
    }
}
