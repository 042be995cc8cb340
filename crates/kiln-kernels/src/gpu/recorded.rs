//! Launches that a GPU repeats by itself: see [`crate::Repeated`].
#![allow(
    unsafe_code,
    reason = "Burn cannot know that what recorded launches read still exists"
)]

use std::thread::{self, ThreadId};

use burn::tensor::{Graph, Tensor, capture};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::arguments::like;
use super::copy::copy;
use super::{AnyTensor, fused};

type Recording<'a> = Graph<Tensor<4>, Box<dyn FnMut() -> Tensor<4> + Send + 'a>>;

/// The recorded launches of a call with inputs of one shape.
pub(crate) struct Recorded<'a> {
    /// Where the launches find their inputs.
    images: Tensor<4>,
    matrix: Tensor<2>,
    graph: Recording<'a>,
    /// Each thread has a queue of its own on the GPU, and launches repeat in the queue of the thread that recorded them.
    thread: ThreadId,
}

impl<'a> Recorded<'a> {
    pub(crate) fn new(
        images: Tensor<4>,
        matrix: Tensor<2>,
        work: impl Fn(Tensor<4>, Tensor<2>) -> Tensor<4> + Send + 'a,
    ) -> Self {
        // In memory of their own.
        let (images, matrix) = (copied(images), copied(matrix));
        let (device, from) = (images.device(), (images.clone(), matrix.clone()));
        let work: Box<dyn FnMut() -> Tensor<4> + Send + 'a> =
            Box::new(move || work(from.0.clone(), from.1.clone()));
        Self {
            graph: capture(&device, work),
            images,
            matrix,
            thread: thread::current().id(),
        }
    }

    /// Whether inputs have the shapes of the first call's, on its thread.
    pub(crate) fn fits(&self, images: &Tensor<4>, matrix: &Tensor<2>) -> bool {
        self.images.dims() == images.dims()
            && self.matrix.dims() == matrix.dims()
            && self.images.device() == images.device()
            && self.thread == thread::current().id()
    }

    /// Not if the GPU cannot record, or could not record this.
    pub(crate) fn is_recorded(&self) -> bool {
        self.graph.is_hardware()
    }

    /// Puts new numbers where the launches find their inputs.
    pub(crate) fn write(&mut self, images: Tensor<4>, matrix: Tensor<2>) {
        // The launches' inputs are these tensors, so they are computed before.
        self.images = written(self.images.clone(), images);
        self.matrix = written(self.matrix.clone(), matrix);
    }

    /// The result for the inputs in place.
    pub(crate) fn repeat(&mut self) -> Tensor<4> {
        // SAFETY: the inputs, and what `work` borrows, live as long as this does. Only the thread that recorded the launches
        // comes here (`fits`), one call after the other, and its queue keeps the order of writing, launches and copying.
        let result = unsafe { self.graph.replay() };
        // The next call overwrites the result.
        copied(result.clone())
    }
}

/// The same numbers in other memory.
fn copied<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let Some(from) = AnyTensor::of(tensor) else {
        unreachable!("the tensor was checked");
    };
    let shape = from.shape().clone();
    let made = fused::queue_one("kiln_copied", vec![from], shape, |mut inputs| {
        let from = into_contiguous(inputs.pop().unwrap_or_else(|| unreachable!("one input")));
        let into = like(&from);
        copy(&from, &into, 0);
        into
    });
    made.into_tensor()
}

/// `into`, which has no gaps, with the numbers of `from` in its memory.
fn written<const D: usize>(into: Tensor<D>, from: Tensor<D>) -> Tensor<D> {
    let inputs: Vec<AnyTensor> = [into, from].into_iter().filter_map(AnyTensor::of).collect();
    let shape = inputs[0].shape().clone();
    let made = fused::queue_one("kiln_written", inputs, shape, |inputs| {
        let [into, from]: [CubeTensor; 2] = inputs
            .try_into()
            .unwrap_or_else(|_| unreachable!("both were checked"));
        copy(&into_contiguous(from), &into, 0);
        into
    });
    made.into_tensor()
}
