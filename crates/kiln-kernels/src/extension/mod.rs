//! The connection of the operators to Burn: backend extensions for Flex, and their gradients for Flex with autodiff.

mod convolution;
mod kept;
mod max_pool;
mod normalisation;
mod prepared;
mod unit_distance;

pub(crate) use convolution::{ConvolutionOps, Options};
pub(crate) use max_pool::MaxPoolOps;
pub(crate) use normalisation::NormalisationOps;
pub(crate) use prepared::Prepared;
pub(crate) use unit_distance::UnitDistanceOps;

use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{DType, Shape};

use crate::arrays::Array;

/// A tensor whose numbers are in the order of the dimensions. Does not copy if they are already stored in this order.
pub(crate) fn values(tensor: &FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The numbers of a tensor of [`values`], whose storage may be longer.
pub(crate) fn numbers(values: &FlexTensor) -> &[f32] {
    &values.storage()[..values.shape().num_elements()]
}

pub(crate) fn tensor(values: impl Into<Array>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        values.into().into_bytes(),
        Layout::contiguous(shape),
        DType::F32,
    )
}
