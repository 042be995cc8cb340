//! UniPC: a predictor and a corrector that share their network calls.

use burn::tensor::Tensor;

use super::step_taken::StepTaken;
use crate::{Denoiser, Level, Rates};

/// UniPC of order 2 (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast
/// Sampling of Diffusion Models", algorithms 5 and 6 on the estimated image, with B(h) = e^h - 1), as
/// in diffusers' `UniPCMultistepScheduler`.
///
/// The predictor is DPM-Solver++(2M): with h the growth of ln(a / b) in the step and change =
/// (h / h_before) (z0 - z0_before),
///
/// ```text
/// z' = (b' / b) z + (a' - a b' / b) (z0 + change / 2)
/// ```
///
/// Once it has the estimate z0' at z', the corrector repeats the step, with z0 + r change + s (z0' - z0) in the
/// bracket. It does not estimate z0' again, so a step costs one network call. The first step, and a step that ends at
/// the clean image, have no `change`. `noise` and the result are `[batch, channels, height, width]`.
pub fn unipc(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    observe: &mut dyn FnMut(StepTaken<'_>),
) -> Tensor<4> {
    let steps = levels.len().saturating_sub(1);
    let mut z = noise;
    let mut before: Option<Step> = None;
    for (step, [level, next]) in (1..).zip(levels.array_windows()) {
        let z0 = denoiser.denoise(z.clone(), *level).z0;
        let h = (next.rates.log_snr() - level.rates.log_snr()) / 2.0;
        let mut change = None;
        if let Some(before) = before {
            if h.is_finite() {
                let ratio = before.h / h;
                change = Some((ratio, (z0.clone() - before.z0.clone()) / ratio));
            }
            z = before.corrected(&z0);
        }
        let rates = (level.rates, next.rates);
        let taken = Step {
            rates,
            h,
            z,
            z0: z0.clone(),
            change,
        };
        z = taken.predicted();
        before = Some(taken);
        observe(StepTaken {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    z
}

/// A step of the predictor, which the corrector may repeat.
struct Step {
    /// Where it begins and ends.
    rates: (Rates, Rates),
    /// The growth of ln(a / b).
    h: f64,
    /// The images that it begins with.
    z: Tensor<4>,
    /// The estimate of the clean images.
    z0: Tensor<4>,
    /// h_before / h, and the change of z0 in the step if it goes on as in the previous one.
    change: Option<(f64, Tensor<4>)>,
}

impl Step {
    fn predicted(&self) -> Tensor<4> {
        let bracket = match &self.change {
            Some((_, change)) => self.z0.clone() + change.clone() / 2.0,
            None => self.z0.clone(),
        };
        self.towards(bracket)
    }

    /// The repeated step, given the estimate `z0_next` at its end.
    ///
    /// The bracket is the mean over the step, weighted by e^lambda as the step itself is, of the
    /// parabola through the three estimates.
    fn corrected(&self, z0_next: &Tensor<4>) -> Tensor<4> {
        let difference = z0_next.clone() - self.z0.clone();
        let bracket = match &self.change {
            Some((ratio, change)) => {
                // The means of u and of u², u growing from 0 to 1 over the step.
                let (h, fallen) = (self.h, (-self.h).exp_m1());
                let mean = (fallen / -h - 1.0) / fallen;
                let mean_of_square = 2.0 * ((fallen / -h - 1.0) / -h - 0.5) / fallen;
                let r = (mean - mean_of_square) / (1.0 + ratio);
                self.z0.clone() + change.clone() * r + difference * (mean - r)
            }
            None => self.z0.clone() + difference / 2.0,
        };
        self.towards(bracket)
    }

    /// The step of DPM-Solver++ (Lu et al. 2022, eq. 9): exact if the image is `z0` all the way.
    fn towards(&self, z0: Tensor<4>) -> Tensor<4> {
        let (from, to) = self.rates;
        let kept = to.noise / from.noise;
        self.z.clone() * kept + z0 * (to.signal - from.signal * kept)
    }
}
