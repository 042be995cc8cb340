//! Operators over any number of tensors, as operations of Burn's fusion.
//!
//! Burn's macro for extensions takes a fixed number of tensors.

use burn::backend::fusion::custom::{
    CustomOpIr, HandleContainer, OperationFn, OperationIr, StreamId, TensorIr,
};
use burn::backend::fusion::{Fusion, FusionBackend, FusionRuntime, FusionTensor};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use crate::instructions;

type Runtime = <CubeBackend as FusionBackend>::FusionRuntime;
type Handles = HandleContainer<<Runtime as FusionRuntime>::FusionHandle>;

/// A tensor on a GPU, of any number of dimensions, without autodiff.
#[derive(Clone, Debug)]
pub struct AnyTensor(pub(super) FusionTensor<Runtime>);

impl AnyTensor {
    /// `None` if it is not such a tensor, or if Burn's operators are wanted.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        if tensor.is_autodiff() || tensor.dtype() != DType::F32 || !instructions::own_operators() {
            return None;
        }
        tensor
            .try_into_primitive::<Fusion<CubeBackend>>()
            .ok()
            .map(Self)
    }

    /// The tensor.
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<Fusion<CubeBackend>>(self.0)
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.0.shape
    }
}

/// Queues `work`, an operator that makes `f32` tensors of these shapes out of `inputs`.
pub(crate) fn queue(
    name: &'static str,
    inputs: Vec<AnyTensor>,
    outputs: Vec<Shape>,
    work: impl Fn(Vec<CubeTensor>) -> Vec<CubeTensor> + Send + Sync + 'static,
) -> Vec<AnyTensor> {
    let Some(AnyTensor(first)) = inputs.first() else {
        return Vec::new();
    };
    let client = first.client.clone();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(|input| input.0.into_ir()).collect();
    let outputs: Vec<TensorIr> = outputs
        .into_iter()
        .map(|shape| TensorIr::uninit(client.create_empty_handle(), shape, DType::F32))
        .collect();
    let operation = {
        let (inputs, outputs) = (inputs.clone(), outputs.clone());
        OperationFn(move |handles: &mut Handles| {
            let read = |input| handles.get_float_tensor::<CubeBackend>(input);
            let made = work(inputs.iter().map(read).collect());
            for (output, made) in outputs.iter().zip(made) {
                handles.register_float_tensor::<CubeBackend>(&output.id, made);
            }
            Ok(())
        })
    };
    let description = CustomOpIr {
        id: name.into(),
        inputs,
        outputs,
        scalars: Vec::new(),
    };
    let stream = StreamId::current();
    let made = client.register(stream, OperationIr::Custom(description), operation);
    made.into_iter().map(AnyTensor).collect()
}

/// [`queue`] for one tensor.
pub(crate) fn queue_one(
    name: &'static str,
    inputs: Vec<AnyTensor>,
    output: Shape,
    work: impl Fn(Vec<CubeTensor>) -> CubeTensor + Send + Sync + 'static,
) -> AnyTensor {
    let mut made = queue(name, inputs, vec![output], move |inputs| vec![work(inputs)]);
    made.pop().unwrap_or_else(|| unreachable!("one shape"))
}
