//! This crate's operators for GPUs, in CubeCL: one source for CUDA, ROCm, Metal and Vulkan.
//!
//! Burn's operators do the rest. The ones here replace many small kernels by few, because a launch costs the host about
//! as much as a small kernel costs the GPU.

mod added;
mod arguments;
mod attention;
mod cache;
mod columns;
pub(crate) mod convolution;
mod copy;
mod fused;
pub(crate) mod group_norm;
pub(crate) mod product;
pub(crate) mod recorded;
mod sums;
mod update;

pub use cache::keep_kernels;
pub use fused::AnyTensor;
pub(crate) use update::update;

use burn::backend::fusion::Fusion;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;

use crate::{instructions, is_cpu};

/// The backend of all graphics cards.
pub(crate) type Gpu = Fusion<CubeBackend>;

/// Units of a cube ("threads of a block" in CUDA), a power of two.
const UNITS: u32 = if cfg!(feature = "cubecl-cpu") {
    // Each is a thread there.
    4
} else {
    256
};

/// Whether these operators can read the tensor, `f32` on a GPU, and are switched on.
pub(crate) fn has<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && !is_cpu(&tensor.device()) && instructions::own_operators()
}
