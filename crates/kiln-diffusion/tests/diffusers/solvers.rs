//! Whole walks of diffusers' solvers: DPM-Solver++, UniPC, PNDM, Euler, Heun and EDM's churn.
//!
//! The walks go down the recorded levels, because diffusers reads sigma from its f32 table, and some of its classes ask
//! the network at a rounded timestep; a separate test compares our own levels.

use burn::tensor::Tensor;
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{
    Level, NetworkDenoiser, Prediction, Rates, Schedule, ScheduleConfig, SchedulerConfig, levels,
};

use super::{Fixture, floats, relative_error, rows, toy_network};

fn numbers(fixture: &Fixture, name: &str) -> Vec<f64> {
    let values = floats(&fixture.tensors(), name).into_iter();
    values.map(f64::from).collect()
}

fn rates(sigma: f64) -> Rates {
    Rates::from_log_snr(-2.0 * sigma.ln())
}

/// Walks down `levels` from the first recorded images, with the recorded noise; the largest difference
/// from the recorded ones after any step.
fn largest_error(
    fixture: &Fixture,
    name: &str,
    sampler: Sampler,
    denoiser: &NetworkDenoiser<impl Fn(Tensor<4>, Level) -> Tensor<4>>,
    levels: &[Level],
    schedule: &Schedule,
) -> f64 {
    let tensors = fixture.tensors();
    let z = rows(&tensors, &format!("{name}/z"));
    let noise = rows(&tensors, &format!("{name}/noise"));
    assert_eq!(z.len(), levels.len(), "{name}");
    let mut worst = 0.0f64;
    let walked = sampler.sample(
        denoiser,
        z[0].clone(),
        levels,
        schedule,
        &mut |step| noise[step - 1].clone(),
        &mut |progress| worst = worst.max(relative_error(progress.z, &z[progress.step])),
    );
    walked.unwrap();
    worst
}

/// Within 1e-5 of the largest value after every step; 1e-4 if the walk begins at a sigma above 1000: at 4096, where
/// diffusers starts for a schedule that ends in pure noise, and at 20,000, where the cosine schedule starts. There the
/// image is divided by 1 / sigma, in f32.
#[test]
fn every_solver_walks_as_diffusers_does() {
    let fixture = Fixture::read("solvers.safetensors");
    let (mut count, mut worst) = (0, 0.0f64);
    for (name, json) in &fixture.metadata {
        if name.starts_with("karras_ve") {
            continue;
        }
        let config = SchedulerConfig::from_json(json).unwrap();
        let schedule = Schedule::new(config.schedule).unwrap();
        let timesteps = numbers(&fixture, &format!("{name}/timesteps"));
        let sigmas = numbers(&fixture, &format!("{name}/sigmas"));
        let visited = timesteps.into_iter().chain([0.0]);
        let starts_far = sigmas[0] > 1000.0;
        let levels: Vec<Level> = (visited.zip(sigmas))
            .map(|(timestep, sigma)| Level {
                timestep,
                rates: rates(sigma),
            })
            .collect();
        let denoiser = NetworkDenoiser {
            network: toy_network,
            prediction: config.prediction,
            clip: config.clip,
        };
        let sampler = config.sampler;
        let error = largest_error(&fixture, name, sampler, &denoiser, &levels, &schedule);
        let tolerance = if starts_far { 1e-4 } else { 1e-5 };
        assert!(error < tolerance, "{name}: {error:e}");
        if !starts_far {
            worst = worst.max(error);
        }
        count += 1;
    }
    assert_eq!(count, 97);
    eprintln!("worst walk: {worst:.1e}");
}

/// All classes visit our timesteps; rounding may move a timestep that was chosen by sigma to another whole one. The
/// sigmas of the first timesteps have lost digits in f32 (1 - alpha_bar): 1e-3 relative.
#[test]
fn our_levels_are_those_of_diffusers() {
    let fixture = Fixture::read("solvers.safetensors");
    let mut count = 0;
    for (name, json) in &fixture.metadata {
        let one_more = name.starts_with("dpm_solver") || name.starts_with("unipc");
        let by_sigma = name.ends_with("karras") || name.ends_with("exponential");
        if name.starts_with("karras_ve") {
            continue;
        }
        let config = SchedulerConfig::from_json(json).unwrap();
        let schedule = Schedule::new(config.schedule).unwrap();
        let timesteps = numbers(&fixture, &format!("{name}/timesteps"));
        let sigmas = numbers(&fixture, &format!("{name}/sigmas"));
        let ours = levels(&schedule, timesteps.len(), config.levels).unwrap();
        for (step, (level, sigma)) in ours.iter().zip(&sigmas).enumerate() {
            let ours = level.rates.noise / level.rates.signal;
            let near = (ours / sigma - 1.0).abs() < 1e-3 || ours == *sigma;
            let pure_noise = level.rates.signal == 0.0 && *sigma > 4095.0;
            assert!(near || pure_noise, "{name} {step}: sigma {ours} {sigma}");
        }
        let tolerance = if one_more && by_sigma { 1.0 } else { 0.02 };
        for (level, timestep) in ours.iter().zip(&timesteps) {
            let difference = (level.timestep - timestep).abs();
            assert!(
                difference < tolerance,
                "{name}: {} {timestep}",
                level.timestep
            );
        }
        count += 1;
    }
    assert_eq!(count, 97);
}

/// Algorithm 2 of EDM with noise on the way, for Euler's and Heun's method.
#[test]
fn churn_is_that_of_edm() {
    let fixture = Fixture::read("solvers.safetensors");
    let schedule = Schedule::new(ScheduleConfig::default()).unwrap();
    let denoiser = NetworkDenoiser {
        network: |zt: Tensor<4>, level: Level| {
            let sigma = level.rates.noise / level.rates.signal;
            zt * (sigma / (sigma + 1.0))
        },
        prediction: Prediction::Noise,
        clip: None,
    };
    for case in 0..4 {
        let name = format!("karras_ve/{case}");
        let sampler: Sampler = serde_json::from_str(&fixture.metadata[&name]).unwrap();
        let sigmas = numbers(&fixture, &format!("{name}/sigmas"));
        let levels: Vec<Level> = (sigmas.into_iter())
            .map(|sigma| Level {
                timestep: schedule.timestep_at(-2.0 * sigma.ln()),
                rates: rates(sigma),
            })
            .collect();
        let error = largest_error(&fixture, &name, sampler, &denoiser, &levels, &schedule);
        assert!(error < 1e-5, "{name} {sampler:?}: {error:e}");
    }
}
