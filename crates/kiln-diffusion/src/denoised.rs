//! A noisy image taken apart.

use burn::tensor::Tensor;

/// A denoiser's answer: the two parts of `zt = a z0 + b noise`. Both are `[batch, channels, height, width]`.
#[derive(Debug, Clone)]
pub struct Denoised {
    /// The estimated clean image.
    pub z0: Tensor<4>,
    /// The estimated noise.
    pub noise: Tensor<4>,
}
