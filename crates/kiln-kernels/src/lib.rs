//! Fused operators, with gradients, for the networks of latent diffusion: for processors, and with the feature `gpu` for
//! graphics cards.
//!
//! Burn's Flex backend makes nine passes over the data for a group normalisation, most of them on one thread, copies
//! every image between two layouts around each convolution, and scatters a convolution's input gradient. In small
//! latent diffusion models this is most of a training step. This crate has:
//!
//! - [`Convolution`]: with the normalisation and SiLU before it, and the bias, time embedding and shortcut after it;
//! - [`GroupNorm`]: alone or with SiLU;
//! - [`attention`] of all pixels to all pixels;
//! - [`nearest_codes`]: the look-up of a vector quantizer;
//! - [`unit_distance`] and [`halving_max_pool`]: the distance of feature maps in perceptual networks, and their pools;
//! - [`AdamW`], [`euclidean_norm`] and [`moving_average`]: an update of the weights in three passes.
//!
//! All images are channels-last, `[batch, height, width, channels]`: channels lie side by side, so they fill vectors
//! for any size of the image, and pixels are rows of matrices without a copy.
//!
//! # Which operators run
//!
//! Each function decides by the device of its tensors: `f32` on Flex (with or without autodiff) uses the operators of
//! this crate; so do GPUs for group normalisation, convolutions, products, attention that learns and the update; everything
//! else is Burn's own. Models call one function in either case. This crate chooses vector instructions at run time: see
//! [`instructions`]. For comparison, the environment variable
//! `KILN_KERNELS=burn` runs Burn's own operators everywhere.
//!
//! [`with_precision`] lets convolutions, attention and linear layers round the factors of their products to bf16 on
//! processors that multiply such numbers faster: see [`bf16_instructions`].
//!
//! # What is promised
//!
//! Results are the same bits in every run, with any number of threads. An image's result is the same bits in a batch of
//! any size.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kiln_kernels::{Convolution, GroupNorm, Padding, Sampling};
//!
//! let device = Device::flex();
//! let images = Tensor::<4>::random([2, 8, 8, 4], Distribution::Default, &device);
//! let weight = Tensor::<4>::random([6, 4, 3, 3], Distribution::Default, &device);
//!
//! let norm = GroupNorm {
//!     gamma: Tensor::ones([4], &device),
//!     beta: Tensor::zeros([4], &device),
//!     groups: 2,
//!     epsilon: 1e-6,
//!     silu: true,
//! };
//! let halving = Sampling::Strided { stride: 2, padding: Padding::uniform(1) };
//! let halved = Convolution::new(images, weight, halving).after(norm).forward();
//! assert_eq!(halved.dims(), [2, 4, 4, 6]);
//! ```

#![recursion_limit = "256"]

mod arena;
mod arrays;
mod attention;
mod beside;
mod conv2d;
mod convolution;
mod exponential;
mod extension;
#[cfg(feature = "gpu")]
mod gpu;
mod group_norm;
mod instructions;
mod lines;
mod max_pool;
mod nearest;
mod normalisation;
mod optimizer;
mod pointwise;
mod pooling;
mod precision;
mod product;
mod reduction;
mod repeated;
mod scratch;
mod stored;
mod unit_distance;
mod unit_vectors;
mod values;

pub use attention::attention;
pub use beside::{Images, beside};
pub use conv2d::Convolution;
pub use convolution::{Padding, Sampling};
#[cfg(feature = "gpu")]
pub use gpu::keep_kernels;
pub use group_norm::GroupNorm;
pub use instructions::{UnknownSetting, check_environment, instructions, own_operators};
pub use max_pool::halving_max_pool;
pub use nearest::nearest_codes;
pub use optimizer::{AdamW, AnyTensor, Together, Weight, euclidean_norm, moving_average};
pub use pointwise::pointwise_weight;
pub use precision::{Precision, with_exact_precision, with_precision};
pub use product::bf16_instructions;
pub use repeated::{Repeated, copied, records_launches, repeats};
pub use stored::{MODEL_IS_GONE, Store, can_stay_stored, for_one_use, tensor_in_store};
pub use unit_distance::unit_distance;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};

/// Runs `work` on a thread of the pool that all operators share.
///
/// Every operator splits its work over the pool. On any other thread each split wakes the pool and waits for it; on a
/// thread of the pool the caller starts to work at once. A training step has some thousand splits.
///
/// A thread that calls this again gets the same thread of the pool: the system's allocator keeps what a thread freed
/// for that thread.
///
/// `work` must not wait for another thread: with one core the pool has no other thread to run that work.
pub fn on_the_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static CALLERS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static CALLER: usize = CALLERS.fetch_add(1, Ordering::Relaxed);
    }
    if rayon::current_thread_index().is_some() {
        return work();
    }
    let (caller, work) = (CALLER.with(|caller| *caller), Mutex::new(Some(work)));
    let results = rayon::broadcast(|thread| {
        let is_its_own = thread.index() == caller % thread.num_threads();
        let work = is_its_own.then(|| work.lock().ok()?.take()).flatten();
        work.map(|work| work())
    });
    let Some(result) = results.into_iter().flatten().next() else {
        unreachable!("one of the threads has the number");
    };
    result
}

/// `[.., m, k]` times `[.., k, n]`, with the same dimensions before. On a GPU the factors have the precision that
/// [`with_precision`] asks for.
pub fn matmul<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "gpu")]
    if gpu::has(&left) && gpu::has(&right) {
        use burn::backend::Dispatch;
        return Tensor::from_dispatch(<Dispatch as gpu::product::ProductOps>::kiln_product(
            left.into_dispatch(),
            right.into_dispatch(),
            precision::requested(),
        ));
    }
    left.matmul(right)
}

/// Whether this crate's operators can read the tensor, `f32` on Flex, and are switched on.
fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_cpu(&tensor.device()) && instructions::own_operators()
}

/// Like [`is_ours`], for operators without a gradient: not on a device with autodiff.
fn is_ours_without_gradient<const D: usize>(tensor: &Tensor<D>) -> bool {
    is_ours(tensor) && matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether the device is the processor, with or without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Flex(_)
    )
}
