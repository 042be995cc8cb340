//! Samplers with the best possible denoiser: the exact posterior mean of a small data set. There is
//! no network, so the samples must be that data set.

mod samplers;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::sampler::{Churn, Sampler, Variance};
use kiln_diffusion::{
    Denoised, Denoiser, Level, LevelOptions, NetworkDenoiser, Prediction, Schedule, ScheduleConfig,
    ScheduleKind, Spacing, levels,
};
use samplers::samplers;

/// The data: three images of one channel and 2 x 2 pixels.
const DATA: [[f64; 4]; 3] = [
    [1.0, 1.0, -1.0, -1.0],
    [-1.0, 0.5, 1.0, -0.5],
    [0.0, -1.0, -0.5, 1.0],
];

/// Whether the last step, too, follows a mean of several noises.
fn extrapolates_the_noise(sampler: Sampler) -> bool {
    matches!(sampler, Sampler::AdamsBashforth { .. } | Sampler::Pndm)
}

fn to_tensor(values: Vec<f64>) -> Tensor<4> {
    let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
    let shape = [values.len() / 4, 1, 2, 2];
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn to_images(tensor: Tensor<4>) -> Vec<[f64; 4]> {
    let values: Vec<f32> = tensor.into_data().try_to_vec().unwrap();
    values
        .chunks_exact(4)
        .map(|image| std::array::from_fn(|i| f64::from(image[i])))
        .collect()
}

fn distance(left: &[f64; 4], right: &[f64; 4]) -> f64 {
    left.iter()
        .zip(right)
        .map(|(l, r)| (l - r).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The data point nearest to an image, and its distance.
fn nearest(image: &[f64; 4]) -> (usize, f64) {
    let distances = DATA.iter().map(|point| distance(image, point)).enumerate();
    distances
        .min_by(|left, right| left.1.total_cmp(&right.1))
        .unwrap()
}

/// E[z0 | zt] over the data set: each point weighs exp(-|zt - a point|² / 2b²).
fn posterior_mean(zt: &[f64; 4], level: Level) -> [f64; 4] {
    let (a, b) = (level.rates.signal, level.rates.noise);
    let exponents = DATA.map(|point| {
        let centre = point.map(|value| a * value);
        -distance(zt, &centre).powi(2) / (2.0 * b * b)
    });
    let largest = exponents.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let weights = exponents.map(|exponent| (exponent - largest).exp());
    let total: f64 = weights.iter().sum();
    std::array::from_fn(|i| {
        DATA.iter()
            .zip(weights)
            .map(|(point, weight)| weight * point[i])
            .sum::<f64>()
            / total
    })
}

fn exact(zt: Tensor<4>, level: Level) -> Denoised {
    let (a, b) = (level.rates.signal, level.rates.noise);
    let (mut z0, mut noise) = (Vec::new(), Vec::new());
    for image in to_images(zt) {
        let mean = posterior_mean(&image, level);
        noise.extend((0..4).map(|i| (image[i] - a * mean[i]) / b));
        z0.extend(mean);
    }
    Denoised {
        z0: to_tensor(z0),
        noise: to_tensor(noise),
    }
}

fn image_noise(images: impl Iterator<Item = u64>) -> ImageNoise {
    ImageNoise {
        seed: 3,
        images: images.collect(),
        shape: [1, 2, 2],
        device: Device::flex(),
    }
}

fn run(
    sampler: Sampler,
    denoiser: &dyn Denoiser,
    noise: &ImageNoise,
    levels: &[Level],
    schedule: &Schedule,
) -> Vec<[f64; 4]> {
    let sampled = sampler.sample(
        denoiser,
        noise.draw(0),
        levels,
        schedule,
        &mut |step| noise.draw(step),
        &mut |_| (),
    );
    to_images(sampled.unwrap())
}

fn ddpm_schedule() -> Schedule {
    Schedule::new(ScheduleConfig::default()).unwrap()
}

fn ddpm_levels(steps: usize, spacing: Spacing) -> Vec<Level> {
    levels(
        &ddpm_schedule(),
        steps,
        LevelOptions {
            spacing,
            ..Default::default()
        },
    )
    .unwrap()
}

#[test]
fn more_steps_come_closer_to_the_data() {
    let noise = image_noise(0..20);
    for sampler in samplers() {
        let errors = [1, 5, 25, 100].map(|steps| {
            let images = run(
                sampler,
                &exact,
                &noise,
                &ddpm_levels(steps, Spacing::Trailing),
                &ddpm_schedule(),
            );
            images
                .iter()
                .map(|image| nearest(image).1)
                .fold(0.0, f64::max)
        });
        // One step gives the mean of the data, the average of everything that the noise could
        // become.
        assert!(errors[0] > 0.5, "{sampler:?} {errors:?}");
        assert!(errors[3] < 1e-5, "{sampler:?} {errors:?}");
        assert!(
            errors.is_sorted_by(|few, many| many <= few),
            "{sampler:?} {errors:?}"
        );
    }
}

#[test]
fn each_data_point_is_drawn_as_often_as_it_should() {
    let noise = image_noise(0..600);
    for sampler in samplers() {
        let mut counts = [0; 3];
        let levels = ddpm_levels(100, Spacing::Leading);
        for image in run(sampler, &exact, &noise, &levels, &ddpm_schedule()) {
            counts[nearest(&image).0] += 1;
        }
        assert!(
            counts.iter().all(|count| (160..240).contains(count)),
            "{sampler:?} {counts:?}"
        );
    }
}

#[test]
fn the_deterministic_samplers_draw_nothing_on_the_way() {
    let (noise, levels) = (image_noise(0..3), ddpm_levels(10, Spacing::Leading));
    for sampler in Sampler::ALL {
        if matches!(sampler, Sampler::Ddpm { .. } | Sampler::Consistency { .. }) {
            continue;
        }
        let once = || {
            let mut fresh_noise = |step| -> Tensor<4> { panic!("step {step} asked for noise") };
            sampler
                .sample(
                    &exact,
                    noise.draw(0),
                    &levels,
                    &ddpm_schedule(),
                    &mut fresh_noise,
                    &mut |_| (),
                )
                .unwrap()
                .into_data()
        };
        assert_eq!(once(), once(), "{sampler:?}");
    }
}

#[test]
fn an_image_is_the_same_in_any_batch() {
    let levels = ddpm_levels(20, Spacing::Leading);
    for sampler in samplers() {
        let together = run(
            sampler,
            &exact,
            &image_noise(0..5),
            &levels,
            &ddpm_schedule(),
        );
        let alone = run(
            sampler,
            &exact,
            &image_noise(3..4),
            &levels,
            &ddpm_schedule(),
        );
        assert_eq!(
            together[3].map(f64::to_bits),
            alone[0].map(f64::to_bits),
            "{sampler:?}"
        );
    }
}

#[test]
fn every_step_is_reported() {
    let (noise, levels) = (image_noise(0..2), ddpm_levels(7, Spacing::Leading));
    for sampler in samplers() {
        let (mut steps, mut last) = (Vec::new(), None);
        let result = sampler.sample(
            &exact,
            noise.draw(0),
            &levels,
            &ddpm_schedule(),
            &mut |step| noise.draw(step),
            &mut |progress| {
                assert_eq!(progress.steps, 7);
                steps.push(progress.step);
                last = Some((progress.z.clone(), progress.z0.clone()));
            },
        );
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
        let (z, z0) = last.unwrap();
        assert_eq!(z.clone().into_data(), result.unwrap().into_data());
        // The walk ends clean, so the last images are the last estimates.
        if !extrapolates_the_noise(sampler) {
            assert_eq!(z.into_data(), z0.into_data(), "{sampler:?}");
        }
    }
}

/// The network knows the same, whatever it predicts.
#[test]
fn every_combination_gives_data_whatever_is_predicted() {
    let noise = image_noise(0..8);
    for kind in [
        ScheduleKind::Linear(Default::default()),
        ScheduleKind::ScaledLinear(Default::default()),
        ScheduleKind::Cosine,
    ] {
        for zero_terminal_snr in [false, true] {
            let config = ScheduleConfig {
                zero_terminal_snr,
                ..ScheduleConfig::of(kind.clone())
            };
            let schedule = Schedule::new(config).unwrap();
            for spacing in Spacing::ALL {
                let options = LevelOptions {
                    spacing,
                    ..Default::default()
                };
                let levels = levels(&schedule, 50, options).unwrap();
                for sampler in samplers() {
                    if extrapolates_the_noise(sampler) {
                        // Steps by sigma are too unequal for this.
                        continue;
                    }
                    for prediction in [Prediction::Noise, Prediction::Signal, Prediction::Velocity]
                    {
                        if prediction.validate(&schedule).is_err() {
                            continue;
                        }
                        let network = |zt, level: Level| {
                            let Denoised { z0, noise } = exact(zt, level);
                            prediction.target(z0, noise, &level.rates)
                        };
                        let denoiser = NetworkDenoiser {
                            network,
                            prediction,
                            clip: None,
                        };
                        for image in run(sampler, &denoiser, &noise, &levels, &schedule) {
                            let (_, distance) = nearest(&image);
                            assert!(
                                distance < 0.01,
                                "{kind:?} zero {zero_terminal_snr} {spacing:?} {sampler:?} {prediction:?}: {distance}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let (noise, levels) = (image_noise(0..1), ddpm_levels(2, Spacing::Leading));
    let variance = Variance::Small;
    let churn = Churn {
        amount: -1.0,
        ..Churn::NONE
    };
    let refused = [-0.1, 1.1, f64::NAN, f64::INFINITY].into_iter();
    let etas = refused
        .clone()
        .map(|eta| (Sampler::Ddim { eta, variance }, "`eta`"));
    let dpm_etas = refused.map(|eta| (Sampler::DpmSolver { eta }, "`eta`"));
    let others = [
        (Sampler::AdamsBashforth { order: 0 }, "`order` is 0"),
        (Sampler::AdamsBashforth { order: 6 }, "`order` is 6"),
        (Sampler::SecondOrder { alpha: 0.0 }, "`alpha` is 0"),
        (Sampler::SecondOrder { alpha: f64::NAN }, "`alpha` is NaN"),
        (Sampler::Euler { churn }, "`amount` of the churn is -1"),
        (Sampler::Heun { churn }, "`amount` of the churn is -1"),
    ];
    for (sampler, words) in etas.chain(dpm_etas).chain(others) {
        let error = sampler
            .sample(
                &exact,
                noise.draw(0),
                &levels,
                &ddpm_schedule(),
                &mut |_| noise.draw(1),
                &mut |_| (),
            )
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
