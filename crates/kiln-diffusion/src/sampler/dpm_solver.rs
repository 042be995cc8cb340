//! DPM-Solver++: multistep steps that are exact where the image does not change.

use burn::tensor::Tensor;

use super::eta;
use super::step_taken::StepTaken;
use crate::{Denoiser, DiffusionError, Level};

/// DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
/// Probabilistic Models", algorithm 2), and with `eta` = 1 its stochastic form, SDE-DPM-Solver++(2M) (eq. 18 of its
/// appendix). Values between them work as in k-diffusion's `sample_dpmpp_2m_sde`.
///
/// From each of `levels` to the next, with h the growth of ln(a / b) in this step and h_before in the previous one:
///
/// ```text
/// D  = z0 + (h / h_before) (z0 - z0_before) / 2
/// z' = (b' / b) e^(-eta h) z + a' (1 - e^(-(1 + eta) h)) D + b' sqrt(1 - e^(-2 eta h)) fresh_noise
/// ```
///
/// D = z0 in the first step, which has no previous one, and in a step that ends at the clean image, where h is
/// infinite. With `eta` = 0 it never draws fresh noise. `noise` and the result are `[batch, channels, height, width]`.
///
/// # Errors
/// An `eta` outside [0, 1].
pub fn dpm_solver(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    eta: f64,
    fresh_noise: &mut dyn FnMut(usize) -> Tensor<4>,
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Result<Tensor<4>, DiffusionError> {
    eta::check(eta)?;
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    let mut before: Option<(Tensor<4>, f64)> = None;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let (a, b) = (level.rates.signal, level.rates.noise);
        let (a_next, b_next) = (next.rates.signal, next.rates.noise);
        let z0 = denoiser.denoise(z.clone(), *level).z0;

        let h = (next.rates.log_snr() - level.rates.log_snr()) / 2.0;
        let extrapolated = match before {
            Some((z0_before, h_before)) if h.is_finite() => {
                z0.clone() + (z0.clone() - z0_before) * (h / h_before / 2.0)
            }
            _ => z0.clone(),
        };
        // e^(-h), which is 0 in steps from pure noise and to the clean image.
        let decay = a * b_next / (a_next * b);
        z = z * (b_next / b * decay.powf(eta))
            + extrapolated * (a_next * (1.0 - decay.powf(1.0 + eta)));
        let s = b_next * (1.0 - decay.powf(2.0 * eta)).max(0.0).sqrt();
        if s > 0.0 {
            z = z + fresh_noise(step) * s;
        }
        before = Some((z0.clone(), h));
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    Ok(z)
}
