//! The straight path from image to noise.

use super::time::Time;
use crate::Rates;

/// Rectified flow (Liu et al. 2022): (1 - t) z0 + t noise, brought to the circle of rates.
pub(super) fn rates(time: Time) -> Rates {
    let t = time.since_clean();
    let (signal, noise) = (1.0 - t, t);
    let length = signal.hypot(noise);
    Rates {
        signal: signal / length,
        noise: noise / length,
    }
}
