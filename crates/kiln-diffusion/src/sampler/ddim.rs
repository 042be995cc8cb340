//! DDIM: a sampler with adjustable randomness, down to none.

use burn::tensor::Tensor;

use super::ddpm::Variance;
use super::eta;
use super::step_taken::StepTaken;
use crate::{Denoised, Denoiser, DiffusionError, Level};

/// Denoising diffusion implicit models (Song, Meng and Ermon 2020, eq. 12 and 16).
///
/// From each of `levels` to the next, with rates a, b and a', b':
///
/// ```text
/// s  = eta sqrt(1 - (a / a')²) b' / b
/// z' = a' z0 + sqrt(b'² - s²) noise + s fresh_noise
/// ```
///
/// With `eta` = 0 it is deterministic and never draws fresh noise; with `eta` = 1 it is as random as DDPM with the
/// small variance. With [`Variance::Large`] the fresh noise is larger, s b / b', so that `eta` = 1 is DDPM with the
/// large variance; the last step to the clean image adds none. `noise` and the result are
/// `[batch, channels, height, width]`.
///
/// # Errors
/// An `eta` outside [0, 1].
pub fn ddim(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    eta: f64,
    variance: Variance,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    eta::check(eta)?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let (a_next, b_next) = (next.rates.signal, next.rates.noise);
        let Denoised { z0, noise } = denoiser.denoise(z, *level);

        // The difference is negative because of rounding, or if the walk goes from image to noise: then nothing is
        // added.
        let large = eta * (1.0 - (a / a_next).powi(2)).max(0.0).sqrt();
        let s = large * b_next / b;
        let direction = (b_next * b_next - s * s).max(0.0).sqrt();
        z = z0.clone() * a_next + noise * direction;
        if s > 0.0 {
            let added = match variance {
                Variance::Small => s,
                Variance::Large => large,
            };
            z = z + fresh_noise(step) * added;
        }
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}
