//! Winograd's transforms along one dimension, for tiles of two and of four outputs (Lavin and Gray 2016, section 4).

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

/// F(2, 3). Its entries are 0, 1 and 1/2: results are as exact as those of direct sums.
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

/// F(4, 3). In two dimensions it needs a quarter of the multiplications, and its larger entries cost two or three bits.
///
/// ```text
/// B^T = 4  0 -5  0 1 0     G =  1/4     0    0       A^T = 1 1  1 1  1 0
///       0 -4 -4  1 1 0         -1/6  -1/6 -1/6             0 1 -1 2 -2 0
///       0  4 -4 -1 1 0         -1/6   1/6 -1/6             0 1  1 4  4 0
///       0 -2 -1  2 1 0         1/24  1/12  1/6             0 1 -1 8 -8 1
///       0  2 -1 -2 1 0         1/24 -1/12  1/6
///       0  4  0 -5 0 1            0     0    1
/// ```
pub(super) struct Four;

impl Transform<4, 6> for Four {
    #[inline(always)]
    fn inputs<S: Simd>(simd: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        let [minus_four, minus_five, four, two] = [-4.0, -5.0, 4.0, 2.0].map_splat(simd);
        let even = simd.mul_add_e_f32s(minus_four, d[2], d[4]);
        let odd = simd.mul_add_e_f32s(minus_four, d[1], d[3]);
        let even_difference = simd.sub_f32s(d[4], d[2]);
        let odd_difference = simd.mul_f32s(two, simd.sub_f32s(d[3], d[1]));
        [
            simd.mul_add_e_f32s(four, d[0], simd.mul_add_e_f32s(minus_five, d[2], d[4])),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            simd.add_f32s(even_difference, odd_difference),
            simd.sub_f32s(even_difference, odd_difference),
            simd.mul_add_e_f32s(four, d[1], simd.mul_add_e_f32s(minus_five, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
        let [quarter, sixth, twelfth, minus_sixth, twenty_fourth] =
            [1.0 / 4.0, 1.0 / 6.0, 1.0 / 12.0, -1.0 / 6.0, 1.0 / 24.0].map_splat(simd);
        let outer = simd.mul_f32s(minus_sixth, simd.add_f32s(g[0], g[2]));
        let inner = simd.mul_f32s(minus_sixth, g[1]);
        let outer_of_two = simd.mul_add_e_f32s(twenty_fourth, g[0], simd.mul_f32s(sixth, g[2]));
        let inner_of_two = simd.mul_f32s(twelfth, g[1]);
        [
            simd.mul_f32s(quarter, g[0]),
            simd.add_f32s(outer, inner),
            simd.sub_f32s(outer, inner),
            simd.add_f32s(outer_of_two, inner_of_two),
            simd.sub_f32s(outer_of_two, inner_of_two),
            g[2],
        ]
    }

    #[inline(always)]
    fn products<S: Simd>(simd: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
        let [two, four, eight] = [2.0, 4.0, 8.0].map_splat(simd);
        let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        let (sum_of_two, difference_of_two) =
            (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
        [
            simd.add_f32s(m[0], simd.add_f32s(sum, sum_of_two)),
            simd.mul_add_e_f32s(two, difference_of_two, difference),
            simd.mul_add_e_f32s(four, sum_of_two, sum),
            simd.add_f32s(
                simd.mul_add_e_f32s(eight, difference_of_two, difference),
                m[5],
            ),
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
