//! Every schedule with every prediction, sampler, spacing and end, in one step and in several, from the
//! beginning of the trajectory and from its middle: no combination divides by zero.

mod samplers;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::sampler::{Sampler, StepTaken};
use kiln_diffusion::schedule::ListedBetas;
use kiln_diffusion::{
    Clip, FinalLevel, Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig,
    ScheduleKind, Spacing, last_part, levels, noise,
};
use samplers::samplers;

fn images(index: u64) -> Tensor<4> {
    let values = noise::normal(5, index, 0, 8);
    Tensor::from_data(TensorData::new(values, [2, 1, 2, 2]), &Device::flex())
}

fn schedules() -> Vec<Schedule> {
    let kinds = [
        ScheduleKind::Linear(Default::default()),
        ScheduleKind::ScaledLinear(Default::default()),
        ScheduleKind::Cosine,
    ];
    let configs = kinds.into_iter().flat_map(|kind| {
        let pure = ScheduleConfig {
            zero_terminal_snr: true,
            ..ScheduleConfig::of(kind.clone())
        };
        [ScheduleConfig::of(kind), pure]
    });
    configs
        .map(|config| Schedule::new(config).unwrap())
        .collect()
}

/// Every kind of schedule, discrete and continuous, and with zero terminal SNR.
fn all_schedules() -> Vec<Schedule> {
    let readings = [(false, false), (false, true), (true, false), (true, true)];
    let configs = ScheduleKind::ALL.into_iter().flat_map(|kind| {
        let (kind, is_curve) = match kind {
            ScheduleKind::Betas(_) => {
                let betas = vec![0.05; 200];
                (ScheduleKind::Betas(ListedBetas { betas }), false)
            }
            kind => (kind, true),
        };
        readings.map(|(continuous, zero_terminal_snr)| ScheduleConfig {
            kind: kind.clone(),
            num_train_timesteps: 200,
            continuous: continuous && is_curve,
            zero_terminal_snr,
        })
    });
    configs
        .map(|config| Schedule::new(config).unwrap())
        .collect()
}

fn leans_on_the_image(sampler: Sampler) -> bool {
    matches!(
        sampler,
        Sampler::Ddim { .. }
            | Sampler::Ddpm { .. }
            | Sampler::Euler { .. }
            | Sampler::DpmSolver { .. }
            | Sampler::UniPc
    )
}

/// The parts of a walk, except for its sampler.
#[derive(Clone, Copy, Debug)]
struct Walk<'a> {
    schedule: &'a Schedule,
    prediction: Prediction,
    clip: Option<Clip>,
    options: LevelOptions,
    steps: usize,
    strength: f64,
}

impl Walk<'_> {
    /// Walks with every sampler, and fails if a number exceeds `limit`; returns the number of samplers.
    ///
    /// The data are standard normal, for which the best estimate of z0 is a zt.
    fn stays_within(self, limit: impl Fn(Sampler) -> f32) -> usize {
        let denoiser = NetworkDenoiser {
            network: |zt: Tensor<4>, level: Level| {
                let (a, b) = (level.rates.signal, level.rates.noise);
                let (z0, noise) = (zt.clone() * a, zt * b);
                self.prediction.target(z0, noise, &level.rates)
            },
            prediction: self.prediction,
            clip: self.clip,
        };
        let levels = levels(self.schedule, self.steps, self.options).unwrap();
        let levels = last_part(&levels, self.strength).unwrap();
        let samplers = samplers();
        for &sampler in &samplers {
            let start = levels[0].rates.add_noise(images(1), images(0));
            let mut check = |progress: StepTaken<'_>| {
                let largest = progress.z.clone().abs().max().into_scalar::<f32>();
                // NaN fails this, too.
                assert!(largest <= limit(sampler), "{self:?} {sampler:?}: {largest}");
            };
            let mut fresh_noise = |step: usize| images(1 + step as u64);
            let schedule = self.schedule;
            let walked = sampler.sample(
                &denoiser,
                start,
                levels,
                schedule,
                &mut fresh_noise,
                &mut check,
            );
            walked.unwrap();
        }
        samplers.len()
    }
}

/// Methods that use the estimated image keep images at about the data's size. Methods that extrapolate the noise may
/// not, in a few steps that are far too large for them.
#[test]
fn all_combinations_stay_finite() {
    let mut walks = 0;
    for schedule in &schedules() {
        for prediction in [Prediction::Noise, Prediction::Signal, Prediction::Velocity] {
            if prediction.validate(schedule).is_err() {
                continue;
            }
            for clip in [None, Some(Clip::DYNAMIC)] {
                for spacing in Spacing::ALL {
                    for final_level in [FinalLevel::Clean, FinalLevel::First] {
                        for (steps, strength) in [(1, 1.0), (2, 1.0), (10, 1.0), (10, 0.5)] {
                            let options = LevelOptions {
                                spacing,
                                final_level,
                                ..Default::default()
                            };
                            let walk = Walk {
                                schedule,
                                prediction,
                                clip,
                                options,
                                steps,
                                strength,
                            };
                            walks += walk.stays_within(|sampler| {
                                if leans_on_the_image(sampler) {
                                    20.0
                                } else {
                                    f32::MAX
                                }
                            });
                        }
                    }
                }
            }
        }
    }
    assert_eq!(walks, 15 * 2 * 6 * 2 * 4 * samplers().len());
}

#[test]
fn all_schedules_stay_finite_with_every_prediction_spacing_and_sampler() {
    for schedule in &all_schedules() {
        for prediction in Prediction::ALL {
            if prediction.validate(schedule).is_err() {
                continue;
            }
            for spacing in Spacing::ALL {
                let options = LevelOptions {
                    spacing,
                    ..Default::default()
                };
                let walk = Walk {
                    schedule,
                    prediction,
                    clip: None,
                    options,
                    steps: 5,
                    strength: 1.0,
                };
                walk.stays_within(|_| f32::MAX);
            }
        }
    }
}
