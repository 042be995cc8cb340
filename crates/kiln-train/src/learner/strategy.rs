//! The way in which several devices train one network.

/// The way in which several devices share the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// All devices sum gradients, each parameter's on one of them, and the first device updates the weights.
    #[default]
    Main,
    /// NCCL sums the gradients between CUDA devices.
    Ddp,
}
