//! UniPC: a predictor and a corrector that share their network calls.

use burn::tensor::Tensor;

use super::progress::Progress;
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
/// Once the estimate z0' at z' is there, the corrector takes the step again, with
/// z0 + r change + s (z0' - z0) in the bracket; z0' is not estimated anew, so a step costs one network
/// call. Without a step before, and in one that ends at the clean image, there is no `change`.
/// `noise` and the result are `[batch, channels, height, width]`.
pub fn unipc(
    denoiser: &dyn Denoiser,
    noise: Tensor<4>,
    levels: &[Level],
    observe: &mut dyn FnMut(Progress<'_>),
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
        observe(Progress {
            step,
            steps,
            z: &z,
            z0: &z0,
        });
    }
    z
}

/// A step that the predictor takes, and the corrector may take again.
struct Step {
    /// Where it begins and ends.
    rates: (Rates, Rates),
    /// The growth of ln(a / b).
    h: f64,
    /// The images that it begins with.
    z: Tensor<4>,
    /// What they are estimated to be.
    z0: Tensor<4>,
    /// h_before / h, and how z0 will change in the step if it goes on changing as in the one before.
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

    /// The step taken again, now that the images where it led are estimated to be `z0_next`.
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
