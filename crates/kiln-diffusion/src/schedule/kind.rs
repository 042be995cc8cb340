//! The kinds of schedule.

use serde::{Deserialize, Serialize};

use super::beta_range::BetaRange;
use super::listed_betas::ListedBetas;
use super::log_snr_ends::LogSnrEnds;
use super::sigma_ends::{Exponential, Karras};
use super::sigmoid::Sigmoid;
use super::signal_rate_ends::SignalRateEnds;
use super::time::Time;
use super::{cosine, flow};
use crate::no_settings::no_settings;
use crate::{DiffusionError, Rates};

/// The shape of a schedule's curve, with the settings of that shape.
///
/// There are three families. In the first the *betas* grow, the share of the variance that each timestep replaces by
/// noise. In the second a curve runs between a given start and end (the seven curves of clear-diffusion-keras and the
/// one of the Keras DDIM example); t runs from 0 at timestep 0 to 1 at T - 1, p is the noise power b², and p0, p1 are
/// its ends. The third lists noise levels sigma = b / a.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ScheduleKind {
    /// Betas in equal steps from `beta_start` to `beta_end` (DDPM, Ho et al. 2020).
    Linear(BetaRange),
    /// Equal steps between the square roots of `beta_start` and `beta_end`, then squared (latent
    /// diffusion, Rombach et al. 2022).
    ScaledLinear(BetaRange),
    /// Betas along a sigmoid: `beta_start + (beta_end - beta_start) sigmoid(x)`, x in equal steps
    /// from -6 to 6 (GeoDiff, Xu et al. 2022; diffusers' `sigmoid`).
    SigmoidBetas(BetaRange),
    /// alpha_bar = cos²((t + 0.008) / 1.008 · π/2), each beta at most 0.999 (iDDPM, Nichol and
    /// Dhariwal 2021, eq. 17).
    #[serde(deserialize_with = "no_settings")]
    Cosine,
    /// alpha_bar = gamma(t), the part of a sigmoid between `sigmoid_start` and `sigmoid_end` at the
    /// temperature `tau`, moved and stretched to run from 1 to 0 (Jabri et al. 2022; Chen 2023).
    Sigmoid(Sigmoid),
    /// p = p0 + t (p1 - p0).
    NoisePowerLinear(LogSnrEnds),
    /// p = sin²(h0 + t (h1 - h0)) with h = asin(sqrt(p)): the angle whose cosine and sine are the
    /// rates grows evenly.
    NoisePowerCosine(LogSnrEnds),
    /// p = 1 / (1 + e^((1 - t) A + t B)) from log-SNR A to log-SNR B.
    LogSnrLinear(LogSnrEnds),
    /// p = p0 (p1 / p0)^t.
    LogNoiseLinear(LogSnrEnds),
    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^t.
    LogSignalLinear(LogSnrEnds),
    /// p = p1 (p0 / p1)^((1 - t)²): the steps of the log noise power shrink evenly.
    NoiseStepLinear(LogSnrEnds),
    /// 1 - p = (1 - p0) ((1 - p1) / (1 - p0))^(t²): the steps of the log signal power grow evenly,
    /// as they nearly do with linear betas.
    SignalStepLinear(LogSnrEnds),
    /// The angle grows evenly from acos(`start_signal_rate`) to acos(`end_signal_rate`): the Keras
    /// DDIM example. The curve of `noise-power-cosine`, whose ends are given as signal rates.
    AngleLinear(SignalRateEnds),
    /// sigma^(1/rho) in equal steps from `sigma_min` to `sigma_max` (EDM, Karras et al. 2022,
    /// eq. 5).
    Karras(Karras),
    /// ln sigma in equal steps from `sigma_min` to `sigma_max`: `log-snr-linear`, whose ends are
    /// given as noise levels.
    Exponential(Exponential),
    /// sigma = t / (1 - t), t from 1 / T to 1: the straight path of rectified flow (Liu et al.
    /// 2022), which ends in pure noise.
    #[serde(deserialize_with = "no_settings")]
    Flow,
    /// Betas listed one by one in `betas`: for models from elsewhere with another schedule.
    Betas(ListedBetas),
}

impl Default for ScheduleKind {
    /// DDPM's schedule.
    fn default() -> Self {
        Self::Linear(BetaRange::DEFAULT)
    }
}

impl ScheduleKind {
    /// All kinds with their default settings, in the order of this documentation. [`Self::Betas`] has no betas yet.
    pub const ALL: [Self; 17] = [
        Self::Linear(BetaRange::DEFAULT),
        Self::ScaledLinear(BetaRange::DEFAULT),
        Self::SigmoidBetas(BetaRange::DEFAULT),
        Self::Cosine,
        Self::Sigmoid(Sigmoid::DEFAULT),
        Self::NoisePowerLinear(LogSnrEnds::DEFAULT),
        Self::NoisePowerCosine(LogSnrEnds::DEFAULT),
        Self::LogSnrLinear(LogSnrEnds::DEFAULT),
        Self::LogNoiseLinear(LogSnrEnds::DEFAULT),
        Self::LogSignalLinear(LogSnrEnds::DEFAULT),
        Self::NoiseStepLinear(LogSnrEnds::DEFAULT),
        Self::SignalStepLinear(LogSnrEnds::DEFAULT),
        Self::AngleLinear(SignalRateEnds::DEFAULT),
        Self::Karras(Karras::DEFAULT),
        Self::Exponential(Exponential::DEFAULT),
        Self::Flow,
        Self::Betas(ListedBetas::DEFAULT),
    ];

    /// The name in a config file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::ScaledLinear(_) => "scaled-linear",
            Self::SigmoidBetas(_) => "sigmoid-betas",
            Self::Cosine => "cosine",
            Self::Sigmoid(_) => "sigmoid",
            Self::NoisePowerLinear(_) => "noise-power-linear",
            Self::NoisePowerCosine(_) => "noise-power-cosine",
            Self::LogSnrLinear(_) => "log-snr-linear",
            Self::LogNoiseLinear(_) => "log-noise-linear",
            Self::LogSignalLinear(_) => "log-signal-linear",
            Self::NoiseStepLinear(_) => "noise-step-linear",
            Self::SignalStepLinear(_) => "signal-step-linear",
            Self::AngleLinear(_) => "angle-linear",
            Self::Karras(_) => "karras",
            Self::Exponential(_) => "exponential",
            Self::Flow => "flow",
            Self::Betas(_) => "betas",
        }
    }

    /// Refuses settings that are out of range for so many timesteps.
    pub(super) fn validate(&self, timesteps: usize) -> Result<(), DiffusionError> {
        match self {
            Self::Linear(range) | Self::ScaledLinear(range) | Self::SigmoidBetas(range) => {
                range.validate(timesteps)
            }
            Self::Sigmoid(sigmoid) => sigmoid.validate(),
            Self::NoisePowerLinear(ends)
            | Self::NoisePowerCosine(ends)
            | Self::LogSnrLinear(ends)
            | Self::LogNoiseLinear(ends)
            | Self::LogSignalLinear(ends)
            | Self::NoiseStepLinear(ends)
            | Self::SignalStepLinear(ends) => ends.validate(),
            Self::AngleLinear(ends) => ends.validate(),
            Self::Karras(levels) => levels.validate(),
            Self::Exponential(levels) => levels.validate(),
            Self::Betas(listed) => listed.validate(timesteps),
            Self::Cosine | Self::Flow => Ok(()),
        }
    }

    /// The rates on the curve itself.
    ///
    /// A curve between two given ends reaches them at the timesteps 0 and T - 1. A curve that starts from a clean image
    /// is one timestep away from it at timestep 0, as in the discrete schedules.
    pub(super) fn rates(&self, time: Time) -> Rates {
        match self {
            Self::Linear(range) => range.linear_curve(time),
            Self::ScaledLinear(range) => range.scaled_linear_curve(time),
            Self::SigmoidBetas(range) => range.along_sigmoid_curve(time),
            Self::Cosine => cosine::rates(time),
            Self::Sigmoid(sigmoid) => sigmoid.rates(time),
            Self::NoisePowerLinear(ends) => ends.noise_power_linear(time),
            Self::NoisePowerCosine(ends) => ends.noise_power_cosine(time),
            Self::LogSnrLinear(ends) => ends.log_snr_linear(time),
            Self::LogNoiseLinear(ends) => ends.log_noise_linear(time),
            Self::LogSignalLinear(ends) => ends.log_signal_linear(time),
            Self::NoiseStepLinear(ends) => ends.noise_step_linear(time),
            Self::SignalStepLinear(ends) => ends.signal_step_linear(time),
            Self::AngleLinear(ends) => ends.angle_linear(time),
            Self::Karras(levels) => levels.rates(time),
            Self::Exponential(levels) => levels.rates(time),
            Self::Flow => flow::rates(time),
            Self::Betas(listed) => listed.rates(time),
        }
    }

    /// The T betas, before any rescaling to zero terminal SNR, if betas define this kind when it is not continuous.
    pub(super) fn betas(&self, timesteps: usize) -> Option<Vec<f64>> {
        match self {
            Self::Linear(range) => Some(range.linear(timesteps)),
            Self::ScaledLinear(range) => Some(range.scaled_linear(timesteps)),
            Self::SigmoidBetas(range) => Some(range.along_sigmoid(timesteps)),
            Self::Cosine => Some(cosine::betas(timesteps)),
            Self::Betas(listed) => Some(listed.betas.clone()),
            Self::Sigmoid(_)
            | Self::NoisePowerLinear(_)
            | Self::NoisePowerCosine(_)
            | Self::LogSnrLinear(_)
            | Self::LogNoiseLinear(_)
            | Self::LogSignalLinear(_)
            | Self::NoiseStepLinear(_)
            | Self::SignalStepLinear(_)
            | Self::AngleLinear(_)
            | Self::Karras(_)
            | Self::Exponential(_)
            | Self::Flow => None,
        }
    }

    /// The range of the betas, if this kind has one.
    pub(crate) fn beta_range(&self) -> Option<&BetaRange> {
        match self {
            Self::Linear(range) | Self::ScaledLinear(range) | Self::SigmoidBetas(range) => {
                Some(range)
            }
            Self::Cosine
            | Self::Sigmoid(_)
            | Self::NoisePowerLinear(_)
            | Self::NoisePowerCosine(_)
            | Self::LogSnrLinear(_)
            | Self::LogNoiseLinear(_)
            | Self::LogSignalLinear(_)
            | Self::NoiseStepLinear(_)
            | Self::SignalStepLinear(_)
            | Self::AngleLinear(_)
            | Self::Karras(_)
            | Self::Exponential(_)
            | Self::Flow
            | Self::Betas(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_among_all() {
        let refused = serde_json::from_str::<ScheduleKind>(r#"{"kind": "none"}"#).unwrap_err();
        let refused = refused.to_string();
        // "unknown variant `none`, expected one of `linear`, .. at line 1 column 15"
        let known: Vec<&str> = refused.split('`').skip(3).step_by(2).collect();
        let all = ScheduleKind::ALL;
        assert_eq!(known, all.each_ref().map(ScheduleKind::name), "{refused}");
    }

    #[test]
    fn the_names_are_those_that_are_read_and_written() {
        for kind in ScheduleKind::ALL {
            let written = serde_json::to_value(&kind).unwrap();
            assert_eq!(written["kind"], kind.name());
            assert_eq!(
                serde_json::from_value::<ScheduleKind>(written).unwrap(),
                kind
            );
        }
    }
}
