//! The nearest code of each vector, without a matrix of their distances in memory.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::instructions::vectorized;
use crate::is_ours;
use crate::product::{PanelsShape, pack_columns};

/// The index of the nearest of `codes`, `[count, dimension]`, for each of `vectors`, `[rows, dimension]`: `[rows]`,
/// each in `0..count`.
///
/// ```text
/// argmin over e of |z - e|^2 = argmin over e of |e|^2 - 2 z.e
/// ```
///
/// Among equals the first is chosen. NaN is never nearest: a vector with NaN gets the code 0. There is no gradient.
///
/// # Panics
///
/// If there is no code, or the dimensions differ.
pub fn nearest_codes(vectors: Tensor<2>, codes: Tensor<2>) -> Tensor<1, Int> {
    let (vectors, codes) = (vectors.without_autodiff(), codes.without_autodiff());
    let [rows, dimension] = vectors.dims();
    let [count, same_dimension] = codes.dims();
    assert!(
        count > 0 && dimension == same_dimension,
        "A vector of {dimension} numbers has no nearest among {count} codes of {same_dimension}: give at least one code, of as many numbers."
    );
    let fits = rows * dimension > 0 && count <= MOST_CODES;
    if fits && is_ours(&vectors) && is_ours(&codes) {
        let indices = Tensor::<1, Int>::from_dispatch(<Dispatch as NearestOps>::kiln_nearest(
            vectors.into_dispatch(),
            codes.into_dispatch(),
        ));
        let integers = indices.device().settings().int_dtype;
        return indices.cast(integers);
    }
    let squared_lengths = codes.clone().square().sum_dim(1).transpose();
    let products = vectors.matmul(codes.transpose());
    (squared_lengths - products.mul_scalar(2.0))
        .argmin(1)
        .squeeze_dim(1)
}

/// Indices are counted in `f32`, which represents all integers up to this one.
const MOST_CODES: usize = 1 << 24;

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex)]
pub(crate) trait NearestOps: Backend {
    /// See [`nearest_codes`].
    fn kiln_nearest(vectors: FloatTensor<Self>, codes: FloatTensor<Self>) -> IntTensor<Self>;
}

impl NearestOps for Flex {
    fn kiln_nearest(vectors: FlexTensor, codes: FlexTensor) -> FlexTensor {
        let dimension = vectors.shape()[1];
        let indices = nearest(
            vectors.to_contiguous().storage(),
            codes.to_contiguous().storage(),
            dimension,
        );
        let rows = indices.len();
        FlexTensor::from_data(TensorData::new(indices, [rows]))
    }
}

/// Vectors that one task works on.
const VECTORS_PER_TASK: usize = 96;

fn nearest(vectors: &[f32], codes: &[f32], dimension: usize) -> Vec<i64> {
    let codes = vectorized(Pack { codes, dimension });
    let mut indices = vec![0; vectors.len() / dimension];
    vectors
        .par_chunks(VECTORS_PER_TASK * dimension)
        .zip(indices.par_chunks_mut(VECTORS_PER_TASK))
        .for_each(|(vectors, indices)| {
            vectorized(Search {
                vectors,
                codes: &codes,
                indices,
            });
        });
    indices
}

/// Codes as columns, so that neighbouring codes fill a vector register.
struct Codes {
    shape: PanelsShape,
    /// `-2 e`.
    panels: Vec<f32>,
    /// `|e|^2`, and infinity in the padding of a panel.
    squared_lengths: Vec<f32>,
}

struct Pack<'a> {
    codes: &'a [f32],
    dimension: usize,
}

impl WithSimd for Pack<'_> {
    type Output = Codes;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Codes {
        let Self { codes, dimension } = self;
        let count = codes.len() / dimension;
        let shape = PanelsShape::new::<S>(dimension, count);
        let mut panels = vec![0.0; shape.len()];
        let code = |index: usize| &codes[index * dimension..][..dimension];
        pack_columns(simd, shape, &mut panels, count, code, -2.0);
        let mut squared_lengths: Vec<f32> = codes
            .chunks_exact(dimension)
            .map(|code| code.iter().map(|value| value * value).sum())
            .collect();
        squared_lengths.resize(shape.len() / dimension, f32::INFINITY);
        Codes {
            shape,
            panels,
            squared_lengths,
        }
    }
}

/// The nearest codes of a few vectors.
struct Search<'a> {
    vectors: &'a [f32],
    codes: &'a Codes,
    indices: &'a mut [i64],
}

impl WithSimd for Search<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const TOGETHER: usize = 6;
        let dimension = self.codes.shape.depth;
        let (indices, rest) = self.indices.as_chunks_mut::<TOGETHER>();
        let (vectors, vectors_rest) = self.vectors.split_at(indices.len() * TOGETHER * dimension);
        let vectors = vectors.chunks_exact(TOGETHER * dimension);
        for (indices, vectors) in indices.iter_mut().zip(vectors) {
            *indices = search(simd, vectors, self.codes);
        }
        for (index, vector) in rest.iter_mut().zip(vectors_rest.chunks_exact(dimension)) {
            [*index] = search(simd, vector, self.codes);
        }
    }
}

/// The nearest codes of `COUNT` vectors, one after the other.
#[inline(always)]
fn search<S: Simd, const COUNT: usize>(simd: S, vectors: &[f32], codes: &Codes) -> [i64; COUNT] {
    let depth = codes.shape.depth;
    let vectors: [&[f32]; COUNT] = std::array::from_fn(|row| &vectors[row * depth..][..depth]);
    let infinity = simd.splat_f32s(f32::INFINITY);
    let mut nearest = Nearest::<S, COUNT> {
        distances: [infinity; COUNT],
        places: [simd.splat_f32s(0.0); COUNT],
    };
    let mut place = 0;
    for panel in codes.shape.panels() {
        let (lengths, _) = S::as_simd_f32s(&codes.squared_lengths[panel.columns.start..]);
        let (values, _) = S::as_simd_f32s(&codes.panels[panel.range]);
        match panel.vectors {
            8 => nearest.meet::<8>(simd, &vectors, values, lengths, place),
            4 => nearest.meet::<4>(simd, &vectors, values, lengths, place),
            2 => nearest.meet::<2>(simd, &vectors, values, lengths, place),
            _ => nearest.meet::<1>(simd, &vectors, values, lengths, place),
        }
        place += panel.vectors;
    }
    let mut indices = [0; COUNT];
    for (index, (distances, places)) in indices
        .iter_mut()
        .zip(nearest.distances.into_iter().zip(nearest.places))
    {
        let least = simd.splat_f32s(simd.reduce_min_f32s(distances));
        let lanes = simd.splat_f32s(S::F32_LANES as f32);
        let codes = simd.mul_add_e_f32s(places, lanes, lane_numbers::<S>());
        let is_nearest = simd.equal_f32s(distances, least);
        *index = simd.reduce_min_f32s(simd.select_f32s(is_nearest, codes, infinity)) as i64;
    }
    indices
}

/// 0, 1, 2 and so on.
#[inline(always)]
fn lane_numbers<S: Simd>() -> S::f32s {
    const NUMBERS: [f32; 16] = [
        0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    ];
    S::as_simd_f32s(&NUMBERS).0[0]
}

/// The nearest codes so far of `COUNT` vectors, among the codes in the same lane.
struct Nearest<S: Simd, const COUNT: usize> {
    /// `|e|^2 - 2 z.e`.
    distances: [S::f32s; COUNT],
    /// Their registers, counted over all codes.
    places: [S::f32s; COUNT],
}

impl<S: Simd, const COUNT: usize> Nearest<S, COUNT> {
    /// Compares with the codes of a panel of `WIDTH` registers, the first at `place`.
    #[inline(always)]
    fn meet<const WIDTH: usize>(
        &mut self,
        simd: S,
        vectors: &[&[f32]; COUNT],
        codes: &[S::f32s],
        squared_lengths: &[S::f32s],
        place: usize,
    ) {
        let lengths: [S::f32s; WIDTH] = std::array::from_fn(|register| squared_lengths[register]);
        let mut distances = [lengths; COUNT];
        let (codes, _) = codes.as_chunks::<WIDTH>();
        for (k, codes) in codes.iter().enumerate() {
            for (distances, vector) in distances.iter_mut().zip(vectors) {
                let z = simd.splat_f32s(vector[k]);
                for (distance, code) in distances.iter_mut().zip(codes) {
                    *distance = simd.mul_add_e_f32s(z, *code, *distance);
                }
            }
        }
        for register in 0..WIDTH {
            let place = simd.splat_f32s((place + register) as f32);
            for (row, distances) in distances.iter().enumerate() {
                let distance = distances[register];
                let is_nearer = simd.less_than_f32s(distance, self.distances[row]);
                self.distances[row] = simd.select_f32s(is_nearer, distance, self.distances[row]);
                self.places[row] = simd.select_f32s(is_nearer, place, self.places[row]);
            }
        }
    }
}
