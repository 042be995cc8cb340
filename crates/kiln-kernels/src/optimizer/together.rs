//! One update of all tensors of a network in a few launches, on a GPU.

#[cfg(feature = "gpu")]
use crate::gpu as with;
#[cfg(not(feature = "gpu"))]
use absent as with;

pub use with::AnyTensor;

use super::AdamW;

/// One tensor of a network, with the optimizer's state.
#[derive(Clone, Debug)]
pub struct Weight<T> {
    /// The weight.
    pub weight: T,
    /// The first and the second moment.
    pub moments: [T; 2],
    /// The weight's moving average, if it has one.
    pub average: Option<T>,
}

/// One update of a network.
#[derive(Clone, Copy, Debug)]
pub struct Together {
    /// The settings.
    pub adamw: AdamW,
    /// The learning rate.
    pub learning_rate: f64,
    /// The largest norm of the gradients; 0 for no limit.
    pub clip_norm: f64,
    /// The share of the average that the step keeps.
    pub decay: f64,
    /// The number of the step, for the report.
    pub step: usize,
}

impl Together {
    /// Moves all weights along their gradients, and the averages after the weights. The second result is `[3]`: the norm
    /// of all gradients together, the factor that clipped them, and the number of the step.
    ///
    /// If the norm is not finite, nothing moves; neither does it in the steps after that, whose reports repeat this
    /// one's. So the host need not look at each of them. `before` is the report of the step before.
    ///
    /// `times` are the numbers of the tensors' steps, counted from 1. Either all tensors have an average or none.
    pub fn update(
        self,
        gradients: Vec<AnyTensor>,
        weights: Vec<Weight<AnyTensor>>,
        times: Vec<usize>,
        before: Option<AnyTensor>,
    ) -> (Vec<Weight<AnyTensor>>, Option<AnyTensor>) {
        with::update(self, gradients, weights, times, before)
    }
}

/// Without GPUs there is no such tensor.
#[cfg(not(feature = "gpu"))]
mod absent {
    use burn::tensor::Tensor;

    use super::{Together, Weight};

    /// A tensor of `f32` numbers on a GPU, of any number of dimensions, without autodiff.
    #[derive(Clone, Debug)]
    pub struct AnyTensor;

    impl AnyTensor {
        /// `None` if it is not such a tensor.
        pub fn of<const D: usize>(_: Tensor<D>) -> Option<Self> {
            None
        }

        /// The tensor.
        pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
            unreachable!("`of` makes none")
        }

        pub(crate) fn copied(self) -> Self {
            self
        }
    }

    pub(super) fn update(
        _: Together,
        _: Vec<AnyTensor>,
        _: Vec<Weight<AnyTensor>>,
        _: Vec<usize>,
        _: Option<AnyTensor>,
    ) -> (Vec<Weight<AnyTensor>>, Option<AnyTensor>) {
        (Vec::new(), None)
    }
}
