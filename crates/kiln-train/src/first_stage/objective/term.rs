//! A term of images and their reconstructions.

use std::fmt::Debug;

use burn::tensor::Tensor;
use kiln_diffusion::Distance;
use kiln_models::BatchPosition;
use kiln_models::bottleneck::Passed;

use crate::experiment::TermWeight;

/// A term that compares images with their reconstructions.
pub(super) trait Term: Debug + Send + Sync {
    /// The name in the logs.
    fn name(&self) -> &'static str;

    /// Whether a smaller value means a better reconstruction, so that it is part of the loss that is logged.
    fn is_a_measure(&self) -> bool {
        true
    }

    /// The term, unweighted, `[1]`: a mean over the images. Both are `[batch, channels, height, width]`.
    fn between(&self, images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1>;
}

/// A term and the share of its weight that counts at this step, from 0 to 1.
pub(super) struct Weighted<'a> {
    pub(super) term: &'a dyn Term,
    pub(super) weight: TermWeight,
    pub(super) ramp: f64,
}

/// The input of the objective for one device's images in one micro-batch.
pub(crate) struct Reconstructed<'a> {
    /// `[batch, channels, height, width]` in [-1, 1].
    pub(crate) images: &'a Tensor<4>,
    /// In the same shape, with gradients for the autoencoder.
    pub(crate) reconstructions: &'a Tensor<4>,
    pub(crate) passed: &'a Passed,
    pub(crate) step: usize,
    /// `None` in a validation.
    pub(crate) position: Option<BatchPosition>,
}

impl Term for Distance {
    fn name(&self) -> &'static str {
        "reconstruction"
    }

    fn between(&self, images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1> {
        Distance::between(*self, reconstructions.clone(), images.clone())
    }
}

/// The sum of what there is.
pub(crate) fn sum(a: Option<Tensor<1>>, b: Option<Tensor<1>>) -> Option<Tensor<1>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}
