//! The slope of a walk, and steps along it.

use burn::tensor::Tensor;

use crate::{Denoised, Denoiser, Level, Rates};

/// The image at `level`, and the remaining noise, which is the slope of x over sigma there:
///
/// ```text
/// dx / dsigma = (x - z0) / sigma = (z - a z0) / b
/// ```
///
/// This is the estimated noise itself unless the image was clipped; then the clipping changes the walk's direction. `z`
/// is `[batch, channels, height, width]`.
pub(super) fn estimate(denoiser: &dyn Denoiser, z: &Tensor<4>, level: Level) -> Denoised {
    let (a, b) = (level.rates.signal, level.rates.noise);
    let z0 = denoiser.denoise(z.clone(), level).z0;
    let noise = (z.clone() - z0.clone() * a) / b;
    Denoised { z0, noise }
}

/// A straight line in x and sigma whose slope is `noise`: x' = x + (sigma' - sigma) noise, which is
///
/// ```text
/// z' = (a' / a) z - (a'² - a²) / (a (a b' + a' b)) noise
/// ```
///
/// This avoids a' (sigma' - sigma), in a short step the difference of two almost equal numbers (the form of PNDM's eq.
/// 11). `from` must have some signal.
pub(super) fn straight(z: Tensor<4>, noise: Tensor<4>, from: Rates, to: Rates) -> Tensor<4> {
    let (a, b) = (from.signal, from.noise);
    let (a_next, b_next) = (to.signal, to.noise);
    let less_noise = (a_next - a) * (a_next + a) / (a * (a * b_next + a_next * b));
    z * (a_next / a) - noise * less_noise
}
