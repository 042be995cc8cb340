//! Every schedule with every prediction, sampler, spacing and end, in one step and in several, from the
//! beginning of the trajectory and from its middle: no combination divides by zero.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::sampler::{Churn, Sampler, Variance};
use kiln_diffusion::{
    Clip, FinalLevel, Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig,
    ScheduleKind, Spacing, last_part, levels, noise,
};

fn images(index: u64) -> Tensor<4> {
    let values = noise::normal(5, index, 0, 8);
    Tensor::from_data(TensorData::new(values, [2, 1, 2, 2]), &Device::flex())
}

fn samplers() -> Vec<Sampler> {
    let churn = Churn {
        amount: 3.0,
        ..Churn::NONE
    };
    let large = Variance::Large;
    let further = [
        Sampler::Ddim {
            eta: 1.0,
            variance: large,
        },
        Sampler::Ddpm { variance: large },
        Sampler::Euler { churn },
        Sampler::Heun { churn },
        Sampler::SecondOrder { alpha: 1.0 },
        Sampler::AdamsBashforth { order: 5 },
        Sampler::DpmSolver { eta: 1.0 },
    ];
    Sampler::ALL.into_iter().chain(further).collect()
}

fn schedules() -> Vec<Schedule> {
    let kinds = [
        ScheduleKind::Linear,
        ScheduleKind::ScaledLinear,
        ScheduleKind::Cosine,
    ];
    let config = |kind| ScheduleConfig {
        kind,
        ..Default::default()
    };
    let configs = kinds.into_iter().flat_map(|kind| {
        let pure = ScheduleConfig {
            zero_terminal_snr: true,
            ..config(kind)
        };
        [config(kind), pure]
    });
    configs
        .map(|config| Schedule::new(config).unwrap())
        .collect()
}

/// Every kind of schedule, discrete and continuous, and with zero terminal SNR.
fn all_schedules() -> Vec<Schedule> {
    let readings = [(false, false), (false, true), (true, false), (true, true)];
    let configs = ScheduleKind::ALL.into_iter().flat_map(|kind| {
        let listed = kind == ScheduleKind::Betas;
        let config = move |(continuous, zero_terminal_snr)| ScheduleConfig {
            kind,
            continuous: continuous && !listed,
            zero_terminal_snr,
            num_train_timesteps: 200,
            betas: listed.then(|| vec![0.05; 200]),
            ..Default::default()
        };
        readings.map(config)
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

/// The data are standard normal, for which the best estimate of z0 is a zt. The methods that lean on the
/// estimated image keep images of about that size; those that extrapolate the noise need not, in a
/// few steps that are far too large for them.
#[test]
fn all_combinations_stay_finite() {
    let mut walks = 0;
    for schedule in schedules() {
        for prediction in [Prediction::Noise, Prediction::Signal, Prediction::Velocity] {
            if prediction.validate(&schedule).is_err() {
                continue;
            }
            for clip in [None, Some(Clip::DYNAMIC)] {
                let network = |zt: Tensor<4>, level: Level| {
                    let (a, b) = (level.rates.signal, level.rates.noise);
                    let (z0, noise) = (zt.clone() * a, zt * b);
                    prediction.target(z0, noise, &level.rates)
                };
                let denoiser = NetworkDenoiser {
                    network,
                    prediction,
                    clip,
                };
                for spacing in Spacing::ALL {
                    for final_level in [FinalLevel::Clean, FinalLevel::First] {
                        for (steps, strength) in [(1, 1.0), (2, 1.0), (10, 1.0), (10, 0.5)] {
                            let options = LevelOptions {
                                spacing,
                                final_level,
                                ..Default::default()
                            };
                            let levels = levels(&schedule, steps, options).unwrap();
                            let levels = last_part(&levels, strength).unwrap();
                            for sampler in samplers() {
                                let start = levels[0].rates.add_noise(images(1), images(0));
                                let mut fresh_noise = |step: usize| images(1 + step as u64);
                                let check = |z: &Tensor<4>| {
                                    let largest = z.clone().abs().max().into_scalar::<f32>();
                                    let limit = if leans_on_the_image(sampler) {
                                        20.0
                                    } else {
                                        f32::MAX
                                    };
                                    assert!(
                                        largest <= limit,
                                        "{:?} {prediction:?} {clip:?} {spacing:?} {final_level:?} {steps} steps from {strength} {sampler:?}: {largest}",
                                        schedule.config()
                                    );
                                };
                                let walked = sampler.sample(
                                    &denoiser,
                                    start,
                                    levels,
                                    &schedule,
                                    &mut fresh_noise,
                                    &mut |progress| check(progress.z),
                                );
                                walked.unwrap();
                                walks += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(walks, 15 * 2 * 6 * 2 * 4 * 16);
}

#[test]
fn all_schedules_stay_finite_with_every_prediction_spacing_and_sampler() {
    for schedule in all_schedules() {
        for prediction in Prediction::ALL {
            if prediction.validate(&schedule).is_err() {
                continue;
            }
            let denoiser = NetworkDenoiser {
                network: |zt: Tensor<4>, level: Level| {
                    let (a, b) = (level.rates.signal, level.rates.noise);
                    let (z0, noise) = (zt.clone() * a, zt * b);
                    prediction.target(z0, noise, &level.rates)
                },
                prediction,
                clip: None,
            };
            for spacing in Spacing::ALL {
                let options = LevelOptions {
                    spacing,
                    ..Default::default()
                };
                let levels = levels(&schedule, 5, options).unwrap();
                for sampler in samplers() {
                    let walked = sampler.sample(
                        &denoiser,
                        images(0),
                        &levels,
                        &schedule,
                        &mut |step| images(1 + step as u64),
                        &mut |_| (),
                    );
                    let largest = walked.unwrap().abs().max().into_scalar::<f32>();
                    assert!(
                        largest.is_finite(),
                        "{:?} {prediction:?} {spacing:?} {sampler:?}: {largest}",
                        schedule.config()
                    );
                }
            }
        }
    }
}
