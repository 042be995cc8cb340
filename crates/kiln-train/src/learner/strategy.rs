//! How several devices train one network.

/// How several devices share the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The gradients are summed on all devices, each parameter's on one of them, and the first updates the weights.
    #[default]
    Main,
    /// NCCL sums the gradients between CUDA devices.
    Ddp,
}
