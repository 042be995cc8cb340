//! Whether samplers draw the right distribution, for independent normal pixels, whose diffusion is known in closed
//! form. An error that is small relative to the step is not enough if the first step starts from 20,000 times as much
//! noise as signal.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kiln_diffusion::sampler::{Churn, Sampler, Variance};
use kiln_diffusion::{
    Denoised, Level, LevelOptions, Rates, Schedule, ScheduleConfig, ScheduleKind, Spacing, levels,
};

/// The standard deviations of the pixels, from fine detail up to an image's brightness.
const DEVIATIONS: [f64; 4] = [0.3, 0.5, 1.0, 1.5];

/// `[values / 4, 1, 2, 2]`, in f64.
fn tensor(values: Vec<f64>) -> Tensor<4> {
    let shape = [values.len() / 4, 1, 2, 2];
    let options = (&Device::flex(), DType::F64);
    Tensor::from_data(TensorData::new(values, shape), options)
}

/// The best denoiser: E[z0 | zt] = a s² / (a² s² + b²) zt.
fn exact(zt: Tensor<4>, level: Level) -> Denoised {
    let Rates {
        signal: a,
        noise: b,
    } = level.rates;
    let gains = DEVIATIONS.map(|s| a * s * s / (a * a * s * s + b * b));
    let z0 = zt.clone() * tensor(gains.to_vec());
    let noise = (zt - z0.clone() * a) / b;
    Denoised { z0, noise }
}

/// The largest relative error of the deviations of drawn pixels. The walk is linear in the initial noise and in each
/// noise that it draws on the way, so one image for each shows how much of it arrives.
fn error(sampler: Sampler, schedule: &Schedule, levels: &[Level]) -> f64 {
    let images = levels.len();
    let only = |image: usize| {
        let mut units = vec![0.0; 4 * images];
        units[4 * image..4 * (image + 1)].fill(1.0);
        tensor(units)
    };
    let drawn = sampler.sample(
        &exact,
        only(0),
        levels,
        schedule,
        &mut |step| only(step),
        &mut |_| (),
    );
    let variances = drawn.unwrap().square().sum_dim(0);
    let variances: Vec<f64> = variances.into_data().try_to_vec().unwrap();
    let errors = variances.iter().zip(DEVIATIONS);
    errors
        .map(|(variance, deviation)| (variance.sqrt() / deviation - 1.0).abs())
        .fold(0.0, f64::max)
}

/// Schedules that end in almost no signal, in none, and in some.
fn schedules() -> Vec<(&'static str, Schedule)> {
    let cosine = || ScheduleConfig {
        kind: ScheduleKind::Cosine,
        ..Default::default()
    };
    let configs = [
        ("cosine", cosine()),
        (
            "cosine, continuous",
            ScheduleConfig {
                continuous: true,
                ..cosine()
            },
        ),
        (
            "cosine, to pure noise",
            ScheduleConfig {
                zero_terminal_snr: true,
                ..cosine()
            },
        ),
        ("linear", ScheduleConfig::default()),
        (
            "linear, to pure noise",
            ScheduleConfig {
                zero_terminal_snr: true,
                ..Default::default()
            },
        ),
        (
            "flow",
            ScheduleConfig {
                kind: ScheduleKind::Flow,
                ..Default::default()
            },
        ),
        (
            "karras",
            ScheduleConfig {
                kind: ScheduleKind::Karras(Default::default()),
                ..Default::default()
            },
        ),
    ];
    configs
        .map(|(name, config)| (name, Schedule::new(config).unwrap()))
        .into()
}

fn of_spacing(schedule: &Schedule, spacing: Spacing, steps: usize) -> Vec<Level> {
    let options = LevelOptions {
        spacing,
        ..Default::default()
    };
    levels(schedule, steps, options).unwrap()
}

/// The samplers whose error falls faster than DDIM's, and DDIM in sigma, over the ranges of their settings.
fn deterministic() -> Vec<Sampler> {
    let orders = (1..=5).map(|order| Sampler::AdamsBashforth { order });
    let alphas = [0.01, 0.25, 0.5, 0.75, 1.0].map(|alpha| Sampler::SecondOrder { alpha });
    let others = [
        Sampler::Euler { churn: Churn::NONE },
        Sampler::Heun { churn: Churn::NONE },
        Sampler::Pndm,
        Sampler::DpmSolver { eta: 0.0 },
        Sampler::UniPc,
    ];
    orders.chain(alphas).chain(others).collect()
}

/// The samplers that draw noise on the way.
fn random() -> Vec<Sampler> {
    let variances = [Variance::Small, Variance::Large];
    let ddpm = variances.map(|variance| Sampler::Ddpm { variance });
    let ddim = [0.2, 0.5, 1.0]
        .into_iter()
        .flat_map(move |eta| variances.map(|variance| Sampler::Ddim { eta, variance }));
    let churned = [1.0, 5.0, 20.0].into_iter().flat_map(|amount| {
        let churn = Churn {
            amount,
            ..Churn::NONE
        };
        [Sampler::Euler { churn }, Sampler::Heun { churn }]
    });
    let dpm_solver = [0.5, 1.0].map(|eta| Sampler::DpmSolver { eta });
    (ddpm
        .into_iter()
        .chain(ddim)
        .chain(churned)
        .chain(dpm_solver))
    .collect()
}

/// The errors of `samplers` are at most `factor` times DDIM's error on the same levels, or 1%.
fn keep_up_with_ddim(samplers: &[Sampler], spacings: &[Spacing], steps: &[usize], factor: f64) {
    for (name, schedule) in &schedules() {
        for (&spacing, &steps) in spacings
            .iter()
            .flat_map(|s| steps.iter().map(move |n| (s, n)))
        {
            let levels = of_spacing(schedule, spacing, steps);
            let ddim = error(Sampler::default(), schedule, &levels);
            for &sampler in samplers {
                let error = error(sampler, schedule, &levels);
                // NaN fails this, too.
                assert!(
                    error <= factor * ddim.max(0.01),
                    "{name}, {spacing:?}, {steps} steps, {sampler:?}: {error:.3}, ddim {ddim:.3}"
                );
            }
        }
    }
}

/// kiln draws from its own models on such levels.
#[test]
fn no_deterministic_sampler_draws_worse_than_ddim() {
    let spacings = [Spacing::Trailing];
    keep_up_with_ddim(&deterministic(), &spacings, &[10, 20, 50, 200], 1.01);
    keep_up_with_ddim(&deterministic(), &spacings, &[5, 7], 1.4);
}

/// Steps that are even in sigma or its logarithm are sparse where the image forms, and of leading steps the last but
/// one lies far from the last.
#[test]
fn nor_much_worse_on_other_levels() {
    let others = [
        Spacing::Leading,
        Spacing::Linspace,
        Spacing::LogSnr,
        Spacing::Karras,
    ];
    keep_up_with_ddim(&deterministic(), &others, &[20, 50, 200], 2.1);
}

/// The more fresh noise, the more steps are needed; it never ruins an image.
#[test]
fn random_samplers_draw_about_the_right_spread() {
    keep_up_with_ddim(&random(), &[Spacing::Trailing], &[20, 50, 200], 4.0);
}
