//! Launches that a GPU repeats by itself: see [`crate::Repeated`].
#![allow(
    unsafe_code,
    reason = "Burn cannot know that what recorded launches read still exists"
)]

use std::sync::Arc;

use burn::tensor::{Graph, Tensor, capture};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::arguments::like;
use super::copy::copy;
use super::{AnyTensor, fused};
use crate::repeated::Work;

/// The recorded launches of a call with inputs of one shape.
pub(crate) struct Recorded<'a> {
    /// Where the launches find their inputs.
    images: Tensor<4>,
    matrix: Tensor<2>,
    graph: Graph<Tensor<4>, Box<dyn FnMut() -> Tensor<4> + Send + 'a>>,
}

impl<'a> Recorded<'a> {
    pub(crate) fn new(images: Tensor<4>, matrix: Tensor<2>, work: Arc<Work<'a>>) -> Self {
        // In memory of their own.
        let (images, matrix) = (copied(images), copied(matrix));
        let (device, from) = (images.device(), (images.clone(), matrix.clone()));
        let work: Box<dyn FnMut() -> Tensor<4> + Send + 'a> =
            Box::new(move || work(from.0.clone(), from.1.clone()));
        Self {
            graph: capture(&device, work),
            images,
            matrix,
        }
    }

    /// Whether inputs have the shapes of the first call's.
    pub(crate) fn fits(&self, images: &Tensor<4>, matrix: &Tensor<2>) -> bool {
        self.images.dims() == images.dims()
            && self.matrix.dims() == matrix.dims()
            && self.images.device() == images.device()
    }

    /// Not if the GPU cannot record, or could not record this.
    pub(crate) fn is_recorded(&self) -> bool {
        self.graph.is_hardware()
    }

    /// The result for the inputs that it was made with.
    pub(crate) fn first(&mut self) -> Tensor<4> {
        // The images, the matrix, and what `work` borrows live as long as this does; the calls of one network follow each
        // other on one thread, which has one stream.
        let result = unsafe { self.graph.replay() };
        // The next call overwrites the result.
        copied(result.clone())
    }

    pub(crate) fn call(&mut self, images: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        // Kept until the launches follow: what nobody holds would not be computed.
        let _written = [
            written(self.images.clone(), images),
            written(self.matrix.clone(), matrix),
        ];
        self.first()
    }
}

/// The same numbers in other memory.
fn copied<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let Some(from) = AnyTensor::of(tensor) else {
        unreachable!("the tensor was checked");
    };
    let shape = from.shape().clone();
    let mut made = fused::queue("kiln_copied", vec![from], vec![shape], |mut inputs| {
        let from = into_contiguous(inputs.pop().unwrap_or_else(|| unreachable!("one input")));
        let into = like(&from);
        copy(&from, &into, 0);
        vec![into]
    });
    let made = made.pop().unwrap_or_else(|| unreachable!("one shape"));
    made.into_tensor()
}

/// Writes the numbers of `from` into the memory of `into`, which has none of another order.
fn written<const D: usize>(into: Tensor<D>, from: Tensor<D>) -> AnyTensor {
    let inputs: Vec<AnyTensor> = [into, from].into_iter().filter_map(AnyTensor::of).collect();
    let shapes = vec![inputs[0].shape().clone()];
    let mut made = fused::queue("kiln_written", inputs, shapes, |inputs| {
        let [into, from]: [CubeTensor; 2] = inputs
            .try_into()
            .unwrap_or_else(|_| unreachable!("two inputs"));
        copy(&into_contiguous(from), &into, 0);
        vec![into]
    });
    made.pop().unwrap_or_else(|| unreachable!("one shape"))
}
