//! The channels of two images side by side.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::arrays;
use crate::extension::{numbers, tensor, values};
use crate::is_ours_without_gradient;

/// Pixels that one task copies.
const PIXELS_PER_TASK: usize = 64;

/// `[batch, height, width, channels of both]`: the channels of `first`, then those of `second`.
///
/// # Panics
///
/// If the other dimensions differ.
pub fn beside(first: Tensor<4>, second: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, _] = first.dims();
    let fits = second.dims()[..3] == [batch, height, width];
    if fits && is_ours_without_gradient(&first) && is_ours_without_gradient(&second) {
        return Tensor::from_dispatch(<Dispatch as BesideOps>::kiln_beside(
            first.into_dispatch(),
            second.into_dispatch(),
        ));
    }
    Tensor::cat(vec![first, second], 3)
}

/// On a backend's own tensors. `f32` and the shapes have been checked before.
#[backend_extension(Flex)]
pub(crate) trait BesideOps: Backend {
    /// See [`beside`].
    fn kiln_beside(first: FloatTensor<Self>, second: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl BesideOps for Flex {
    fn kiln_beside(first: FlexTensor, second: FlexTensor) -> FlexTensor {
        let [near, far] = [&first, &second].map(|images| images.shape()[3]);
        let mut shape = first.shape();
        let mut joined = arrays::array(shape.num_elements() / near.max(1) * (near + far));
        let (left, right) = (values(&first), values(&second));
        joined
            .par_chunks_mut((PIXELS_PER_TASK * (near + far)).max(1))
            .zip(numbers(&left).par_chunks((PIXELS_PER_TASK * near).max(1)))
            .zip(numbers(&right).par_chunks((PIXELS_PER_TASK * far).max(1)))
            .for_each(|((joined, left), right)| {
                let pixels = joined.chunks_exact_mut(near + far);
                let both = left.chunks_exact(near).zip(right.chunks_exact(far));
                for (pixel, (left, right)) in pixels.zip(both) {
                    let (first, second) = pixel.split_at_mut(near);
                    first.copy_from_slice(left);
                    second.copy_from_slice(right);
                }
            });
        shape[3] = near + far;
        tensor(joined, shape)
    }
}
