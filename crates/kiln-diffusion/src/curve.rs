//! The curves of the schedules: how much signal and noise there are at any time.
//!
//! Each formula is computed from the smaller of the two powers, or from a logarithm, so that
//! neither a² = 1 - p nor b² = p loses digits where it is almost 0.

use crate::betas::{cosine_signal_rate, sigmoid, softplus};
use crate::{Rates, ScheduleConfig, ScheduleKind};

/// The share of the signal's power that curves towards pure noise keep, as in Chen 2023
/// ("On the Importance of Noise Scheduling for Diffusion Models", algorithm 1).
const LEAST_SIGNAL_POWER: f64 = 1e-9;

impl ScheduleConfig {
    /// The rates at `timestep`, from 0 to T - 1, on the curve itself.
    ///
    /// A curve between two given ends has them at the timesteps 0 and T - 1. A curve that leaves
    /// from a clean image is one timestep away from it at timestep 0, as the discrete schedules
    /// are. Listed betas are no curve: they are never asked.
    pub(crate) fn curve(&self, timestep: f64) -> Rates {
        let timesteps = self.num_train_timesteps as f64;
        let t = timestep / (timesteps - 1.0).max(1.0);
        let since_clean = (timestep + 1.0) / timesteps;
        match self.kind {
            ScheduleKind::Linear
            | ScheduleKind::ScaledLinear
            | ScheduleKind::SigmoidBetas
            | ScheduleKind::Betas => {
                Rates::from_log_signal_power(-self.integrated_betas(since_clean))
            }
            ScheduleKind::Cosine => {
                let rate = cosine_signal_rate(since_clean) / cosine_signal_rate(0.0);
                towards_pure_noise(rate * rate)
            }
            ScheduleKind::Sigmoid => towards_pure_noise(self.sigmoid_gamma(since_clean)),
            ScheduleKind::Flow => {
                let (signal, noise) = (1.0 - since_clean, since_clean);
                let length = signal.hypot(noise);
                Rates {
                    signal: signal / length,
                    noise: noise / length,
                }
            }
            ScheduleKind::AngleLinear => {
                let (start, end) = self.signal_rate_ends();
                at_angle(mix(start.acos(), end.acos(), t))
            }
            ScheduleKind::Karras => {
                let ((least, most), rho) = (self.sigma_ends(), self.rho());
                let root = |sigma: f64| sigma.powf(rho.recip());
                at_sigma(mix(root(least), root(most), t).powf(rho))
            }
            ScheduleKind::Exponential => {
                let (least, most) = self.sigma_ends();
                at_sigma(mix(least.ln(), most.ln(), t).exp())
            }
            ScheduleKind::NoisePowerLinear
            | ScheduleKind::NoisePowerCosine
            | ScheduleKind::LogSnrLinear
            | ScheduleKind::LogNoiseLinear
            | ScheduleKind::LogSignalLinear
            | ScheduleKind::NoiseStepLinear
            | ScheduleKind::SignalStepLinear => self.between_log_snrs(t),
        }
    }

    /// The seven curves of clear-diffusion-keras, from log-SNR A at t = 0 to B at t = 1.
    fn between_log_snrs(&self, t: f64) -> Rates {
        let (start, end) = self.log_snr_ends();
        let (first, last) = (Rates::from_log_snr(start), Rates::from_log_snr(end));
        // ln p = -ln(1 + e^log_snr) and ln(1 - p) = -ln(1 + e^-log_snr)
        let log_noise = (-softplus(start), -softplus(end));
        let log_signal = (-softplus(-start), -softplus(-end));
        match self.kind {
            ScheduleKind::NoisePowerLinear => Rates {
                signal: mix(first.signal.powi(2), last.signal.powi(2), t).sqrt(),
                noise: mix(first.noise.powi(2), last.noise.powi(2), t).sqrt(),
            },
            ScheduleKind::NoisePowerCosine => {
                let angle = |rates: Rates| rates.noise.atan2(rates.signal);
                at_angle(mix(angle(first), angle(last), t))
            }
            ScheduleKind::LogNoiseLinear => {
                Rates::from_log_noise_power(mix(log_noise.0, log_noise.1, t))
            }
            ScheduleKind::LogSignalLinear => {
                Rates::from_log_signal_power(mix(log_signal.0, log_signal.1, t))
            }
            ScheduleKind::NoiseStepLinear => {
                Rates::from_log_noise_power(mix(log_noise.1, log_noise.0, (1.0 - t).powi(2)))
            }
            ScheduleKind::SignalStepLinear => {
                Rates::from_log_signal_power(mix(log_signal.0, log_signal.1, t * t))
            }
            _ => Rates::from_log_snr(mix(start, end, t)),
        }
    }

    /// gamma(t) of Jabri et al. 2022: with s(x) = sigmoid(x / tau),
    /// `(s(end) - s(start + t (end - start))) / (s(end) - s(start))`.
    fn sigmoid_gamma(&self, t: f64) -> f64 {
        let ((start, end), tau) = (self.sigmoid_ends(), self.tau());
        let at = |x: f64| sigmoid(x / tau);
        (at(end) - at(mix(start, end, t))) / (at(end) - at(start))
    }
}

/// `from` at t = 0 and `to` at t = 1.
fn mix(from: f64, to: f64, t: f64) -> f64 {
    from * (1.0 - t) + to * t
}

fn at_angle(angle: f64) -> Rates {
    Rates {
        signal: angle.cos(),
        noise: angle.sin(),
    }
}

/// Where b / a is `sigma`.
fn at_sigma(sigma: f64) -> Rates {
    Rates::from_log_snr(-2.0 * sigma.ln())
}

fn towards_pure_noise(signal_power: f64) -> Rates {
    let signal_power = signal_power.max(LEAST_SIGNAL_POWER);
    Rates {
        signal: signal_power.sqrt(),
        noise: (1.0 - signal_power).sqrt(),
    }
}
