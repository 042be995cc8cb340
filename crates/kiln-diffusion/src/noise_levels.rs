//! The noise levels that a network is trained on.

use serde::{Deserialize, Serialize};

use crate::{DiffusionError, Schedule, noise};

/// The distribution of the noise levels that a network is trained on, whatever the schedule.
///
/// The schedule turns a level into the timestep that the network is told; a level that it does not
/// reach becomes its nearest end. A discrete schedule is trained on its whole timesteps only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum NoiseLevels {
    /// Every timestep as often as any other (DDPM, Ho et al. 2020, algorithm 1).
    #[default]
    Uniform,
    /// The noise power b² is uniform between those of the schedule's ends.
    UniformNoisePower,
    /// ln sigma is normal, sigma = b / a (EDM, Karras et al. 2022, table 1).
    LogNormal {
        /// Mean of ln sigma: -1.2 in EDM, for images with a standard deviation of 0.5.
        #[serde(default = "edm_mean")]
        mean: f64,
        /// Standard deviation of ln sigma: 1.2 in EDM.
        #[serde(default = "edm_standard_deviation")]
        standard_deviation: f64,
    },
    /// The timestep's place in the schedule, from 0 to 1, is sigmoid(x) with a normal x: the middle
    /// more often than the ends (Stable Diffusion 3, Esser et al. 2024, eq. 19).
    LogitNormal {
        /// Mean of x: 0 in Stable Diffusion 3; above 0 for more noise.
        #[serde(default)]
        mean: f64,
        /// Standard deviation of x: 1 in Stable Diffusion 3.
        #[serde(default = "one")]
        standard_deviation: f64,
    },
}

fn edm_mean() -> f64 {
    -1.2
}

fn edm_standard_deviation() -> f64 {
    1.2
}

fn one() -> f64 {
    1.0
}

impl NoiseLevels {
    /// Checks these settings.
    ///
    /// # Errors
    /// A mean or a standard deviation out of range.
    pub fn validate(&self) -> Result<(), DiffusionError> {
        let (mean, standard_deviation) = match *self {
            NoiseLevels::Uniform | NoiseLevels::UniformNoisePower => return Ok(()),
            NoiseLevels::LogNormal {
                mean,
                standard_deviation,
            }
            | NoiseLevels::LogitNormal {
                mean,
                standard_deviation,
            } => (mean, standard_deviation),
        };
        if !(-20.0..=20.0).contains(&mean) {
            return Err(DiffusionError::Number {
                key: "mean",
                value: mean,
                valid: "the mean of the noise levels lies between -20 and 20",
            });
        }
        if !(standard_deviation > 0.0 && standard_deviation <= 20.0) {
            return Err(DiffusionError::Number {
                key: "standard_deviation",
                value: standard_deviation,
                valid: "the standard deviation of the noise levels lies above 0 and at most at 20",
            });
        }
        Ok(())
    }

    /// The timestep at which the image at (`seed`, `image_index`, `step`) is trained: from 0 to T -
    /// 1, a whole number if `schedule` is discrete. See [`noise`] for the address.
    pub fn timestep(&self, schedule: &Schedule, seed: u64, image_index: u64, step: u64) -> f64 {
        let timesteps = schedule.num_train_timesteps();
        let last = (timesteps - 1) as f64;
        // A place in the schedule, from 0 to below 1: each discrete timestep has an equal share.
        let at_place = |place: f64| {
            if schedule.is_continuous() {
                place * last
            } else {
                (place * timesteps as f64).floor().min(last)
            }
        };
        let at_log_snr = |log_snr: f64| {
            let timestep = schedule.timestep_at(log_snr);
            if schedule.is_continuous() {
                timestep
            } else {
                timestep.round()
            }
        };
        let normal = || noise::normal_number(seed, image_index, step);
        match *self {
            NoiseLevels::Uniform => at_place(noise::uniform(seed, image_index, step)),
            NoiseLevels::UniformNoisePower => {
                let power = |timestep| schedule.noise_rate(timestep).powi(2);
                let place = noise::uniform(seed, image_index, step);
                let noise_power = power(0.0) + place * (power(last) - power(0.0));
                // ln(a² / b²)
                at_log_snr((-noise_power).ln_1p() - noise_power.ln())
            }
            NoiseLevels::LogNormal {
                mean,
                standard_deviation,
            } => at_log_snr(-2.0 * (mean + standard_deviation * normal())),
            NoiseLevels::LogitNormal {
                mean,
                standard_deviation,
            } => {
                let x = mean + standard_deviation * normal();
                at_place(1.0 / (1.0 + (-x).exp()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ScheduleConfig, ScheduleKind};

    const COUNT: u64 = 4000;

    fn schedule(continuous: bool) -> Schedule {
        Schedule::new(ScheduleConfig {
            kind: ScheduleKind::Karras(Default::default()),
            continuous,
            ..Default::default()
        })
        .unwrap()
    }

    fn timesteps(levels: NoiseLevels, schedule: &Schedule) -> Vec<f64> {
        (0..COUNT)
            .map(|image| levels.timestep(schedule, 5, image, 7))
            .collect()
    }

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2));
        let variance = squares.sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    const LOG_NORMAL: NoiseLevels = NoiseLevels::LogNormal {
        mean: -1.2,
        standard_deviation: 1.2,
    };

    const LOGIT_NORMAL: NoiseLevels = NoiseLevels::LogitNormal {
        mean: 0.5,
        standard_deviation: 0.8,
    };

    /// If this fails, a resumed run would use other timesteps than before.
    #[test]
    fn uniform_timesteps_of_a_discrete_schedule_are_those_of_the_address() {
        let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
        for image in 0..100 {
            let timestep = NoiseLevels::Uniform.timestep(&schedule, 42, image, 3);
            assert_eq!(timestep, noise::timestep(42, image, 3, 1000));
        }
    }

    #[test]
    fn a_discrete_schedule_is_trained_on_whole_timesteps_and_a_continuous_one_between_them() {
        for levels in [
            NoiseLevels::Uniform,
            NoiseLevels::UniformNoisePower,
            LOG_NORMAL,
            LOGIT_NORMAL,
        ] {
            let whole = |timestep: &f64| timestep.fract() == 0.0;
            let (discrete, continuous) = (schedule(false), schedule(true));
            let discrete = timesteps(levels, &discrete);
            assert!(discrete.iter().all(whole), "{levels:?}");
            let continuous = timesteps(levels, &continuous);
            assert!(!continuous.iter().any(whole), "{levels:?}");
            for timestep in discrete.into_iter().chain(continuous) {
                assert!((0.0..=999.0).contains(&timestep), "{levels:?} {timestep}");
            }
        }
    }

    #[test]
    fn ln_sigma_is_normal() {
        let schedule = schedule(true);
        let log_sigmas: Vec<f64> = timesteps(LOG_NORMAL, &schedule)
            .into_iter()
            .map(|timestep| -0.5 * schedule.log_snr(timestep))
            .collect();
        let (mean, deviation) = mean_and_deviation(&log_sigmas);
        assert!((mean + 1.2).abs() < 0.06, "{mean}");
        assert!((deviation - 1.2).abs() < 0.05, "{deviation}");
    }

    #[test]
    fn the_logit_of_the_place_is_normal() {
        let schedule = schedule(true);
        let logits: Vec<f64> = timesteps(LOGIT_NORMAL, &schedule)
            .into_iter()
            .map(|timestep| (timestep / (999.0 - timestep)).ln())
            .collect();
        let (mean, deviation) = mean_and_deviation(&logits);
        assert!((mean - 0.5).abs() < 0.04, "{mean}");
        assert!((deviation - 0.8).abs() < 0.04, "{deviation}");
    }

    #[test]
    fn the_noise_power_is_uniform() {
        let schedule = schedule(true);
        let powers: Vec<f64> = timesteps(NoiseLevels::UniformNoisePower, &schedule)
            .into_iter()
            .map(|timestep| schedule.noise_rate(timestep).powi(2))
            .collect();
        for part in 1..10 {
            let part = f64::from(part) / 10.0;
            let below = powers.iter().filter(|&&power| power < part).count();
            assert!((below as f64 / COUNT as f64 - part).abs() < 0.025, "{part}");
        }
    }

    #[test]
    fn pure_noise_is_a_level_too() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Flow,
            num_train_timesteps: 4,
            ..Default::default()
        };
        let schedule = Schedule::new(config).unwrap();
        let drawn = timesteps(NoiseLevels::UniformNoisePower, &schedule);
        for timestep in [0.0, 1.0, 2.0, 3.0] {
            assert!(drawn.contains(&timestep), "{timestep}");
        }
    }

    #[test]
    fn settings_are_read_strictly_and_checked() {
        #[derive(Debug, Deserialize)]
        struct Stage {
            noise_levels: NoiseLevels,
        }
        let read = |text: &str| {
            toml::from_str::<Stage>(&format!("noise_levels = {text}"))
                .map(|stage| stage.noise_levels)
        };
        assert_eq!(read("\"uniform\"").unwrap(), NoiseLevels::Uniform);
        assert_eq!(read("{ log-normal = {} }").unwrap(), LOG_NORMAL);
        assert!(read("{ log-normal = { sigma = 1 } }").is_err());
        assert!(read("{ uniform = { mean = 1 } }").is_err());
        for text in [
            "{ log-normal = { mean = nan } }",
            "{ logit-normal = { standard_deviation = 0.0 } }",
        ] {
            let message = read(text).unwrap().validate().unwrap_err().to_string();
            assert!(message.contains("of the noise levels"), "{message}");
        }
    }
}
