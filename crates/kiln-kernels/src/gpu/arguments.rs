//! Tensors as arguments of kernels.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::{into_contiguous, slice};
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// All numbers of a tensor without gaps, in the order of its memory.
pub(super) fn flat(tensor: &CubeTensor) -> TensorArg {
    let numbers = tensor.shape().num_elements();
    let mut binding = tensor.clone().binding();
    binding.shape = [numbers].into();
    binding.strides = [1].into();
    binding.into_tensor_arg()
}

/// A count of numbers, or of vectors of them, for a kernel.
///
/// # Panics
/// If it does not fit into 32 bits, as kernels count.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).expect("kernels for GPUs count up to 2^32 numbers: choose a smaller batch")
}

/// Some of the first dimension, by the first one and their number, without gaps if the tensor has none.
pub(super) fn of_first_dimension(
    tensor: &CubeTensor,
    (first, count): (usize, usize),
) -> CubeTensor {
    let shape = tensor.shape();
    if count == shape[0] {
        return tensor.clone();
    }
    let whole = (1..shape.num_dims()).map(|dimension| 0..shape[dimension]);
    let ranges: Vec<_> = std::iter::once(first..first + count).chain(whole).collect();
    slice(tensor.clone(), &ranges)
}

/// The numbers that a unit reads at once if rows have so many.
pub(super) fn vector_width(row: usize) -> usize {
    [4, 2, 1]
        .into_iter()
        .find(|&width| row.is_multiple_of(width))
        .unwrap_or(1)
}

/// Memory for a tensor of this shape, on the device and of the type of `model`.
pub(super) fn memory<const D: usize>(model: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    let (client, device) = (model.client.clone(), model.device.clone());
    empty_device_dtype(client, device, shape.into(), model.dtype)
}

/// Memory for a tensor like this one, with the same order of its numbers.
pub(super) fn like(tensor: &CubeTensor) -> CubeTensor {
    CubeTensor {
        handle: memory(tensor, [tensor.shape().num_elements()]).handle,
        ..tensor.clone()
    }
}

/// The dimensions from the one with the largest stride to the one with the smallest, if that is an order of memory
/// without gaps.
fn order(tensor: &CubeTensor) -> Option<Vec<usize>> {
    let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
    let mut order: Vec<usize> = (0..shape.len()).collect();
    // Dimensions of one element may have any stride.
    order.sort_by_key(|&dimension| std::cmp::Reverse((strides[dimension], shape[dimension])));
    let mut expected = 1;
    for &dimension in order.iter().rev() {
        if shape[dimension] != 1 && strides[dimension] != expected {
            return None;
        }
        expected *= shape[dimension];
    }
    Some(order)
}

/// The tensor without gaps in its memory; a copy if there are any.
pub(super) fn without_gaps(tensor: CubeTensor) -> CubeTensor {
    match order(&tensor) {
        Some(_) => tensor,
        None => into_contiguous(tensor),
    }
}

/// `tensor` with its numbers in the order that `model`'s have in memory, which has no gaps; a copy if they are not.
pub(super) fn ordered_like(tensor: CubeTensor, model: &CubeTensor) -> CubeTensor {
    if tensor.meta.strides() == model.meta.strides() {
        return tensor;
    }
    let Some(order) = order(model) else {
        return into_contiguous(tensor);
    };
    let permuted = permuted(tensor, &order);
    let copied = into_contiguous(permuted);
    let mut back = vec![0; order.len()];
    for (place, &dimension) in order.iter().enumerate() {
        back[dimension] = place;
    }
    let mut copied = self::permuted(copied, &back);
    // The same numbers for dimensions of one element, so that the next comparison is quick.
    copied.meta.strides = model.meta.strides().clone();
    copied
}

fn permuted(mut tensor: CubeTensor, order: &[usize]) -> CubeTensor {
    let (shape, strides) = (tensor.meta.shape().clone(), tensor.meta.strides().clone());
    for (place, &dimension) in order.iter().enumerate() {
        tensor.meta.shape[place] = shape[dimension];
        tensor.meta.strides[place] = strides[dimension];
    }
    tensor
}
