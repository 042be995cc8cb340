//! Winograd's transforms along one dimension, for tiles of two and of four outputs (Lavin and Gray 2016, section 4).

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use pulp::Simd;

/// F(M, 3): `M` neighbouring outputs of a kernel of three from `N = M + 2` inputs.
///
/// ```text
/// out = A^T ((G g) . (B^T d))          `.` multiplies number by number: N multiplications instead of 3 M
/// ```
pub(super) trait Transform<const M: usize, const N: usize> {
    /// `B^T d` of the inputs.
    fn inputs<S: Simd>(simd: S, d: [S::f32s; N]) -> [S::f32s; N];

    /// `G g` of the kernel.
    fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; N];

    /// `A^T m` of the products.
    fn products<S: Simd>(simd: S, m: [S::f32s; N]) -> [S::f32s; M];
}

/// F(2, 3). Its entries are 0, 1 and 1/2, so results are as exact as with direct sums.
///
/// ```text
/// B^T = 1  0 -1  0     G = 1    0    0        A^T = 1 1  1  0
///       0  1  1  0         1/2  1/2  1/2            0 1 -1 -1
///       0 -1  1  0         1/2 -1/2  1/2
///       0  1  0 -1         0    0    1
/// ```
pub(super) struct Two;

impl Transform<2, 4> for Two {
    #[inline(always)]
    fn inputs<S: Simd>(simd: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
        [
            simd.sub_f32s(d[0], d[2]),
            simd.add_f32s(d[1], d[2]),
            simd.sub_f32s(d[2], d[1]),
            simd.sub_f32s(d[1], d[3]),
        ]
    }

    #[inline(always)]
    fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 4] {
        let half = simd.splat_f32s(0.5);
        let outer = simd.add_f32s(g[0], g[2]);
        [
            g[0],
            simd.mul_f32s(half, simd.add_f32s(outer, g[1])),
            simd.mul_f32s(half, simd.sub_f32s(outer, g[1])),
            g[2],
        ]
    }

    #[inline(always)]
    fn products<S: Simd>(simd: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
        [
            simd.add_f32s(m[0], simd.add_f32s(m[1], m[2])),
            simd.sub_f32s(simd.sub_f32s(m[1], m[2]), m[3]),
        ]
    }
}

impl Two {
    /// `A y` of the outputs' gradient.
    #[inline(always)]
    pub(super) fn gradient<S: Simd>(simd: S, y: [S::f32s; 2]) -> [S::f32s; 4] {
        [
            y[0],
            simd.add_f32s(y[0], y[1]),
            simd.sub_f32s(y[0], y[1]),
            simd.neg_f32s(y[1]),
        ]
    }

    /// `G^T u`, the gradient of the kernel.
    #[inline(always)]
    pub(super) fn kernel_gradient<S: Simd>(simd: S, u: [S::f32s; 4]) -> [S::f32s; 3] {
        let half = simd.splat_f32s(0.5);
        let sum = simd.mul_f32s(half, simd.add_f32s(u[1], u[2]));
        let difference = simd.mul_f32s(half, simd.sub_f32s(u[1], u[2]));
        [
            simd.add_f32s(u[0], sum),
            difference,
            simd.add_f32s(sum, u[3]),
        ]
    }
}

/// F(4, 3). In two dimensions it needs a quarter of the multiplications. Its polynomials meet at 0, `a = 1/sqrt(2)`,
/// `-a`, `b = sqrt(2)`, `-b` and infinity: reciprocal pairs keep the matrices' entries near one. Compared with the
/// usual 0, 1, -1, 2, -2, rounding errors are half as large on average, and a fifth at worst (on choosing points:
/// Barabasz et al. 2020, "Error analysis and improving the accuracy of Winograd convolution").
///
/// ```text
/// B^T = 1  0 -5/2  0   1 0     G =   1      0    0        A^T = 1  1   1    1    1   0
///       0 -b  -2   a   1 0         -2/3  -b/3  -1/3             0  a  -a    b   -b   0
///       0  b  -2  -a   1 0         -2/3   b/3  -1/3             0 1/2 1/2   2    2   0
///       0 -a -1/2  b   1 0          1/6   b/6   1/3             0 a/2 -a/2 2b  -2b   1
///       0  a -1/2 -b   1 0          1/6  -b/6   1/3
///       0  1   0  -5/2 0 1           0      0    1
/// ```
pub(super) struct Four;

impl Transform<4, 6> for Four {
    #[inline(always)]
    fn inputs<S: Simd>(simd: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        let [a, b, minus_half, minus_two, minus_five_halves] =
            [FRAC_1_SQRT_2, SQRT_2, -0.5, -2.0, -2.5].map_splat(simd);
        let even_of_a = simd.mul_add_e_f32s(minus_two, d[2], d[4]);
        let even_of_b = simd.mul_add_e_f32s(minus_half, d[2], d[4]);
        let odd_of_a = simd.mul_f32s(a, simd.mul_add_e_f32s(minus_two, d[1], d[3]));
        let odd_of_b = simd.mul_f32s(b, simd.mul_add_e_f32s(minus_half, d[1], d[3]));
        [
            simd.add_f32s(d[0], simd.mul_add_e_f32s(minus_five_halves, d[2], d[4])),
            simd.add_f32s(even_of_a, odd_of_a),
            simd.sub_f32s(even_of_a, odd_of_a),
            simd.add_f32s(even_of_b, odd_of_b),
            simd.sub_f32s(even_of_b, odd_of_b),
            simd.add_f32s(d[1], simd.mul_add_e_f32s(minus_five_halves, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
        let [
            sixth,
            third,
            minus_third,
            minus_two_thirds,
            sixth_of_b,
            minus_third_of_b,
        ] = [
            1.0 / 6.0,
            1.0 / 3.0,
            -1.0 / 3.0,
            -2.0 / 3.0,
            SQRT_2 / 6.0,
            -SQRT_2 / 3.0,
        ]
        .map_splat(simd);
        let outer_of_a =
            simd.mul_add_e_f32s(minus_two_thirds, g[0], simd.mul_f32s(minus_third, g[2]));
        let outer_of_b = simd.mul_add_e_f32s(sixth, g[0], simd.mul_f32s(third, g[2]));
        let inner_of_a = simd.mul_f32s(minus_third_of_b, g[1]);
        let inner_of_b = simd.mul_f32s(sixth_of_b, g[1]);
        [
            g[0],
            simd.add_f32s(outer_of_a, inner_of_a),
            simd.sub_f32s(outer_of_a, inner_of_a),
            simd.add_f32s(outer_of_b, inner_of_b),
            simd.sub_f32s(outer_of_b, inner_of_b),
            g[2],
        ]
    }

    #[inline(always)]
    fn products<S: Simd>(simd: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
        let [half, two] = [0.5, 2.0].map_splat(simd);
        let [a, b] = [FRAC_1_SQRT_2, SQRT_2].map_splat(simd);
        let (even_of_a, odd_of_a) = (
            simd.add_f32s(m[1], m[2]),
            simd.mul_f32s(a, simd.sub_f32s(m[1], m[2])),
        );
        let (even_of_b, odd_of_b) = (
            simd.add_f32s(m[3], m[4]),
            simd.mul_f32s(b, simd.sub_f32s(m[3], m[4])),
        );
        [
            simd.add_f32s(m[0], simd.add_f32s(even_of_a, even_of_b)),
            simd.add_f32s(odd_of_a, odd_of_b),
            simd.mul_add_e_f32s(two, even_of_b, simd.mul_f32s(half, even_of_a)),
            simd.mul_add_e_f32s(two, odd_of_b, simd.mul_add_e_f32s(half, odd_of_a, m[5])),
        ]
    }
}

/// Numbers as vectors of themselves.
trait MapSplat<const COUNT: usize> {
    fn map_splat<S: Simd>(self, simd: S) -> [S::f32s; COUNT];
}

impl<const COUNT: usize> MapSplat<COUNT> for [f32; COUNT] {
    #[inline(always)]
    fn map_splat<S: Simd>(self, simd: S) -> [S::f32s; COUNT] {
        let mut vectors = [simd.splat_f32s(0.0); COUNT];
        for (vector, number) in vectors.iter_mut().zip(self) {
            *vector = simd.splat_f32s(number);
        }
        vectors
    }
}
