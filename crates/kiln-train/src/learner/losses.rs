//! What a recipe computes in a training step.

use burn::tensor::Tensor;

use crate::learner::report::StepReport;

/// The loss of a training step, and its report.
pub(crate) struct Losses {
    /// `[1]`: the mean over the batch's images.
    pub(crate) total: Tensor<1>,
    /// `[1]`: zero, with gradients that carry sums over the batch to the update. These sums are not averaged over
    /// devices.
    pub(crate) carried: Option<Tensor<1>>,
    /// Without gradients.
    pub(crate) report: StepReport,
}
