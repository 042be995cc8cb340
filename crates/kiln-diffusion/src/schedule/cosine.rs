//! The cosine of iDDPM (Nichol and Dhariwal 2021, eq. 17): alpha_bar = cos²((t + 0.008) / 1.008 · π/2).

use std::f64::consts::FRAC_PI_2;

use super::time::Time;
use crate::Rates;

/// A beta is at most this, so that the last timestep keeps some signal.
const LARGEST_BETA: f64 = 0.999;

/// The curve itself.
pub(super) fn rates(time: Time) -> Rates {
    let rate = signal_rate(time.since_clean()) / signal_rate(0.0);
    Rates::towards_pure_noise(rate * rate)
}

/// The T betas that lead along it.
pub(super) fn betas(timesteps: usize) -> Vec<f64> {
    let at = |step: usize| signal_rate(step as f64 / timesteps as f64);
    let beta = |step| {
        let kept = at(step + 1) / at(step);
        (1.0 - kept * kept).min(LARGEST_BETA)
    };
    (0..timesteps).map(beta).collect()
}

/// sqrt(alpha_bar), written as a sine so that it is exactly 0 at t = 1.
fn signal_rate(t: f64) -> f64 {
    ((1.0 - t) / 1.008 * FRAC_PI_2).sin()
}
