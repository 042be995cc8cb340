//! The kinds of schedule, and which settings belong to which.

use serde::{Deserialize, Serialize};

/// The settings of a range of betas.
const BETA_RANGE: &[&str] = &["beta_start", "beta_end", "scale_betas", "continuous"];
/// The settings of a curve between two log-SNRs.
const LOG_SNR_ENDS: &[&str] = &["start_log_snr", "end_log_snr", "continuous"];

/// The shape of a schedule's curve.
///
/// Three families. In the first the *betas* grow, the share of the variance that each timestep
/// replaces by noise. In the second a curve is drawn between a start and an end that are given (the
/// seven of clear-diffusion-keras and that of the Keras DDIM example); t runs from 0 at timestep 0
/// to 1 at T - 1, p is the noise power b², and p0, p1 are its ends. The third lists noise levels
/// sigma = b / a.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Betas in equal steps from `beta_start` to `beta_end` (DDPM, Ho et al. 2020).
    #[default]
    Linear,
    /// Equal steps between the square roots of `beta_start` and `beta_end`, then squared (latent
    /// diffusion, Rombach et al. 2022).
    ScaledLinear,
    /// Betas along a sigmoid: `beta_start + (beta_end - beta_start) sigmoid(x)`, x in equal steps
    /// from -6 to 6 (GeoDiff, Xu et al. 2022; diffusers' `sigmoid`).
    SigmoidBetas,
    /// alpha_bar = cos²((t + 0.008) / 1.008 · π/2), each beta at most 0.999 (iDDPM, Nichol and
    /// Dhariwal 2021, eq. 17).
    Cosine,
    /// alpha_bar = gamma(t), the part of a sigmoid between `sigmoid_start` and `sigmoid_end` at the
    /// temperature `tau`, moved and stretched to run from 1 to 0 (Jabri et al. 2022; Chen 2023).
    Sigmoid,
    /// p = p0 + t (p1 - p0).
    NoisePowerLinear,
    /// p = sin²(h0 + t (h1 - h0)) with h = asin(sqrt(p)): the angle whose cosine and sine are the
    /// rates grows evenly.
    NoisePowerCosine,
    /// p = 1 / (1 + e^((1 - t) A + t B)) from log-SNR A to log-SNR B.
    LogSnrLinear,
    /// p = p0 (p1 / p0)^t.
    LogNoiseLinear,
    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^t.
    LogSignalLinear,
    /// p = p1 (p0 / p1)^((1 - t)²): the steps of the log noise power shrink evenly.
    NoiseStepLinear,
    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^(t²): the steps of the log signal power grow evenly,
    /// as they nearly do with linear betas.
    SignalStepLinear,
    /// The angle grows evenly from acos(`start_signal_rate`) to acos(`end_signal_rate`): the Keras
    /// DDIM example. The curve of `noise-power-cosine`, whose ends are given as signal rates.
    AngleLinear,
    /// sigma^(1/rho) in equal steps from `sigma_min` to `sigma_max` (EDM, Karras et al. 2022,
    /// eq. 5).
    Karras,
    /// ln sigma in equal steps from `sigma_min` to `sigma_max`: `log-snr-linear`, whose ends are
    /// given as noise levels.
    Exponential,
    /// sigma = t / (1 - t), t from 1 / T to 1: the straight path of rectified flow (Liu et al.
    /// 2022), which ends in pure noise.
    Flow,
    /// Betas listed one by one in `betas`: for models from elsewhere whose schedule is none of the
    /// others.
    Betas,
}

impl ScheduleKind {
    /// All kinds, in the order of this documentation.
    pub const ALL: [ScheduleKind; 17] = [
        ScheduleKind::Linear,
        ScheduleKind::ScaledLinear,
        ScheduleKind::SigmoidBetas,
        ScheduleKind::Cosine,
        ScheduleKind::Sigmoid,
        ScheduleKind::NoisePowerLinear,
        ScheduleKind::NoisePowerCosine,
        ScheduleKind::LogSnrLinear,
        ScheduleKind::LogNoiseLinear,
        ScheduleKind::LogSignalLinear,
        ScheduleKind::NoiseStepLinear,
        ScheduleKind::SignalStepLinear,
        ScheduleKind::AngleLinear,
        ScheduleKind::Karras,
        ScheduleKind::Exponential,
        ScheduleKind::Flow,
        ScheduleKind::Betas,
    ];

    /// The name in a config file.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleKind::Linear => "linear",
            ScheduleKind::ScaledLinear => "scaled-linear",
            ScheduleKind::SigmoidBetas => "sigmoid-betas",
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::Sigmoid => "sigmoid",
            ScheduleKind::NoisePowerLinear => "noise-power-linear",
            ScheduleKind::NoisePowerCosine => "noise-power-cosine",
            ScheduleKind::LogSnrLinear => "log-snr-linear",
            ScheduleKind::LogNoiseLinear => "log-noise-linear",
            ScheduleKind::LogSignalLinear => "log-signal-linear",
            ScheduleKind::NoiseStepLinear => "noise-step-linear",
            ScheduleKind::SignalStepLinear => "signal-step-linear",
            ScheduleKind::AngleLinear => "angle-linear",
            ScheduleKind::Karras => "karras",
            ScheduleKind::Exponential => "exponential",
            ScheduleKind::Flow => "flow",
            ScheduleKind::Betas => "betas",
        }
    }

    /// The keys of a [`ScheduleConfig`](crate::ScheduleConfig) that shape this kind, beside
    /// `num_train_timesteps` and `zero_terminal_snr`, which go with all. Any other key is refused.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            ScheduleKind::Linear | ScheduleKind::ScaledLinear | ScheduleKind::SigmoidBetas => {
                BETA_RANGE
            }
            ScheduleKind::Sigmoid => &["sigmoid_start", "sigmoid_end", "tau", "continuous"],
            ScheduleKind::NoisePowerLinear
            | ScheduleKind::NoisePowerCosine
            | ScheduleKind::LogSnrLinear
            | ScheduleKind::LogNoiseLinear
            | ScheduleKind::LogSignalLinear
            | ScheduleKind::NoiseStepLinear
            | ScheduleKind::SignalStepLinear => LOG_SNR_ENDS,
            ScheduleKind::AngleLinear => &["start_signal_rate", "end_signal_rate", "continuous"],
            ScheduleKind::Karras => &["sigma_min", "sigma_max", "rho", "continuous"],
            ScheduleKind::Exponential => &["sigma_min", "sigma_max", "continuous"],
            ScheduleKind::Cosine | ScheduleKind::Flow => &["continuous"],
            ScheduleKind::Betas => &["betas"],
        }
    }

    /// Whether the curve is defined by its T betas when it is not read continuously.
    pub(crate) fn is_of_betas(self) -> bool {
        matches!(
            self,
            ScheduleKind::Linear
                | ScheduleKind::ScaledLinear
                | ScheduleKind::SigmoidBetas
                | ScheduleKind::Cosine
                | ScheduleKind::Betas
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_are_read_and_written() {
        for kind in ScheduleKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let read: ScheduleKind = serde_json::from_value(kind.name().into()).unwrap();
            assert_eq!(read, kind);
        }
    }
}
