//! Launches that a GPU repeats by itself: see [`crate::Repeated`].
#![allow(
    unsafe_code,
    reason = "Burn cannot know that what recorded launches read still exists"
)]

use std::thread::{self, ThreadId};

use burn::tensor::{Device, Graph, capture};

use super::arguments::{like, ordered_like, without_gaps};
use super::copy::copy_each;
use super::{AnyTensor, fused};

type Work<'a, T> = Box<dyn FnMut() -> T + Send + 'a>;

/// The recorded launches of some work on inputs of the same shapes.
pub(crate) struct Recorded<'a, T> {
    device: Device,
    /// Where the launches find their inputs.
    inputs: Vec<AnyTensor>,
    graph: Graph<T, Work<'a, T>>,
    /// Each thread has a queue of its own on the GPU, and launches repeat in the queue of the thread that recorded them.
    thread: ThreadId,
}

impl<'a, T> Recorded<'a, T> {
    pub(crate) fn new<W>(
        device: &Device,
        inputs: Vec<AnyTensor>,
        work: impl FnOnce(Vec<AnyTensor>) -> W,
    ) -> Self
    where
        W: FnMut() -> T + Send + 'a,
    {
        // In memory of their own.
        let inputs = copied(inputs);
        let work: Work<'a, T> = Box::new(work(inputs.clone()));
        Self {
            device: device.clone(),
            inputs,
            graph: capture(device, work),
            thread: thread::current().id(),
        }
    }

    /// Whether inputs have the shapes of the first call's, on its thread.
    pub(crate) fn fits(&self, device: &Device, inputs: &[AnyTensor]) -> bool {
        let shapes = self.inputs.iter().map(AnyTensor::shape);
        shapes.eq(inputs.iter().map(AnyTensor::shape))
            && self.device == *device
            && self.thread == thread::current().id()
    }

    /// Not if the GPU cannot record, or could not record this.
    pub(crate) fn is_recorded(&self) -> bool {
        self.graph.is_hardware()
    }

    /// Puts new numbers where the launches find their inputs.
    pub(crate) fn write(&mut self, inputs: Vec<AnyTensor>) {
        // The launches' inputs are these tensors, so they are computed before.
        self.inputs = written(std::mem::take(&mut self.inputs), inputs);
    }

    /// The result for the inputs in place. The next call overwrites it.
    pub(crate) fn repeat(&mut self) -> &T {
        // SAFETY: the inputs, and what `work` borrows, live as long as this does. Only the thread that recorded the launches
        // comes here (`fits`), one call after the other, and its queue keeps the order of writing, launches and reading.
        unsafe { self.graph.replay() }
    }
}

impl AnyTensor {
    /// The same numbers in other memory.
    pub(crate) fn copied(self) -> Self {
        let mut copied = copied(vec![self]);
        copied.pop().unwrap_or_else(|| unreachable!("one tensor"))
    }
}

/// The same numbers in other memory.
fn copied(tensors: Vec<AnyTensor>) -> Vec<AnyTensor> {
    let shapes = tensors
        .iter()
        .map(|tensor| tensor.shape().clone())
        .collect();
    fused::queue("kiln_copied", tensors, shapes, |tensors| {
        let from: Vec<_> = tensors.into_iter().map(without_gaps).collect();
        let into: Vec<_> = from.iter().map(like).collect();
        copy_each(&from, &into);
        into
    })
}

/// `into`, which have no gaps, with the numbers of `from` in their memory.
fn written(mut into: Vec<AnyTensor>, from: Vec<AnyTensor>) -> Vec<AnyTensor> {
    let shapes = into.iter().map(|tensor| tensor.shape().clone()).collect();
    let count = into.len();
    into.extend(from);
    fused::queue("kiln_written", into, shapes, move |mut into| {
        let from = into.split_off(count);
        let ordered = from.into_iter().zip(&into);
        let from: Vec<_> = ordered
            .map(|(from, into)| ordered_like(from, into))
            .collect();
        copy_each(&from, &into);
        into
    })
}
