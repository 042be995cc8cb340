//! Schedules, spacings and sampling steps against diffusers' own, from `tests/fixtures/diffusion`
//! (made by `make.py` there).
//!
//! diffusers computes schedules in f32, where a product of 1000 factors loses digits and 1 -
//! alpha_bar cancels; ours are f64. The tolerances allow for that; each test says what they are
//! relative to.

mod from_config;
mod solvers;

use std::collections::HashMap;
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use kiln_diffusion::sampler::{Sampler, StepTaken, Variance};
use kiln_diffusion::schedule::BetaRange;
use kiln_diffusion::{
    Clip, FinalLevel, Level, LevelOptions, NetworkDenoiser, Prediction, Rates, Schedule,
    ScheduleConfig, ScheduleKind, SchedulerConfig, Spacing, levels,
};
use safetensors::SafeTensors;

/// A fixture file: its tensors and its metadata.
struct Fixture {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Fixture {
    fn read(name: &str) -> Self {
        let folder = PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/diffusion"
        ));
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { bytes, metadata }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data();
    bytes
        .chunks_exact(4)
        .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
        .collect()
}

fn integers(tensors: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let bytes = tensors.tensor(name).unwrap().data();
    bytes
        .chunks_exact(8)
        .map(|value| i64::from_le_bytes(value.try_into().unwrap()))
        .collect()
}

/// `[rows, 2, 4, 4]` cut into `[1, 2, 4, 4]`.
fn rows(tensors: &SafeTensors<'_>, name: &str) -> Vec<Tensor<4>> {
    let row = |values: &[f32]| {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [1, 2, 4, 4]),
            &Device::flex(),
        )
    };
    floats(tensors, name)
        .chunks_exact(2 * 4 * 4)
        .map(row)
        .collect()
}

fn largest(tensor: &Tensor<4>) -> f64 {
    f64::from(tensor.clone().abs().max().into_scalar::<f32>())
}

/// The largest difference, relative to the largest value, or to 1 where that is smaller.
fn relative_error(ours: &Tensor<4>, theirs: &Tensor<4>) -> f64 {
    largest(&(ours.clone() - theirs.clone())) / largest(theirs).max(1.0)
}

/// The network of diffusers' own tests.
fn toy_network(zt: Tensor<4>, level: Level) -> Tensor<4> {
    zt * (level.timestep / (level.timestep + 1.0))
}

/// alpha_bar within 1e-5 relative where diffusers' f32 still has those digits: 1e-7 of the largest
/// is its rounding.
#[test]
fn schedules_match() {
    let fixture = Fixture::read("schedules.safetensors");
    assert_eq!(fixture.metadata.len(), 15);
    let tensors = fixture.tensors();
    for (name, json) in &fixture.metadata {
        let schedule = Schedule::new(SchedulerConfig::from_json(json).unwrap().schedule).unwrap();
        let theirs = floats(&tensors, name);
        assert_eq!(schedule.num_train_timesteps(), theirs.len(), "{name}");
        let (mut relative, mut absolute) = (0.0f64, 0.0f64);
        for (timestep, theirs) in theirs.into_iter().map(f64::from).enumerate() {
            let ours = schedule.signal_rate(timestep as f64).powi(2);
            absolute = absolute.max((ours - theirs).abs());
            relative = relative.max((ours - theirs).abs() / (theirs + 1e-7));
            assert!(
                (ours - theirs).abs() <= 1e-5 * theirs + 1e-7,
                "{name} {timestep}: {ours} {theirs}"
            );
        }
        eprintln!("{name}: absolute {absolute:.1e}, relative {relative:.1e}");
    }
}

/// Noise levels within 1e-4 relative: exponentials and seventh powers of f32 in diffusers.
#[test]
fn noise_levels_match() {
    let fixture = Fixture::read("sigmas.safetensors");
    let tensors = fixture.tensors();
    for (name, kind) in [
        ("karras", ScheduleKind::Karras(Default::default())),
        ("exponential", ScheduleKind::Exponential(Default::default())),
        ("flow", ScheduleKind::Flow),
    ] {
        let schedule = Schedule::new(ScheduleConfig {
            kind,
            num_train_timesteps: 50,
            ..Default::default()
        })
        .unwrap();
        for (timestep, theirs) in floats(&tensors, name).into_iter().enumerate() {
            let Rates { signal, noise } = schedule.rates(timestep as f64);
            let ours = match schedule.config().kind {
                ScheduleKind::Flow => noise / (signal + noise),
                _ => noise / signal,
            };
            let error = (ours / f64::from(theirs) - 1.0).abs();
            assert!(error < 1e-4, "{name} {timestep}: {ours} {theirs}");
        }
    }
}

#[test]
fn spacings_match_to_the_number() {
    let fixture = Fixture::read("spacings.safetensors");
    let tensors = fixture.tensors();
    let names = tensors.names();
    assert_eq!(names.len(), 112);
    for name in names {
        let [spacing, total, steps, offset] = name.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        let spacing: Spacing = serde_json::from_value(spacing.into()).unwrap();
        let number = |text: &str| text.parse::<usize>().unwrap();
        let schedule = Schedule::new(ScheduleConfig {
            num_train_timesteps: number(total),
            ..Default::default()
        })
        .unwrap();
        let ours = spacing
            .timesteps(&schedule, number(steps), number(offset))
            .unwrap();
        let theirs = integers(&tensors, name).into_iter();
        let theirs: Vec<f64> = theirs.map(|timestep| timestep as f64).collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

/// One recorded run of a diffusers scheduler.
struct Walk {
    name: String,
    sampler: Sampler,
    denoiser: NetworkDenoiser<fn(Tensor<4>, Level) -> Tensor<4>>,
    schedule: Schedule,
    /// Our own trajectory for the same settings.
    levels: Vec<Level>,
    /// The levels that each of diffusers' steps led from and to.
    steps: Vec<(Level, Level)>,
    z: Vec<Tensor<4>>,
    z0: Vec<Tensor<4>>,
    noise: Vec<Tensor<4>>,
}

fn walks() -> Vec<Walk> {
    let fixture = Fixture::read("steps.safetensors");
    let tensors = fixture.tensors();
    let walk = |(name, json): (&String, &String)| {
        let case: serde_json::Value = serde_json::from_str(json).unwrap();
        let config = SchedulerConfig::from_json(case["config"].as_str().unwrap()).unwrap();
        let schedule = Schedule::new(config.schedule.clone()).unwrap();
        let sampler = match config.sampler {
            Sampler::Ddim { .. } => Sampler::Ddim {
                eta: case["eta"].as_f64().unwrap(),
                variance: Variance::Small,
            },
            ddpm => ddpm,
        };
        let from = integers(&tensors, &format!("{name}/from"));
        let to = integers(&tensors, &format!("{name}/to"));
        let levels = levels(&schedule, from.len(), config.levels).unwrap();
        let end = levels[from.len()];
        let level = |timestep: i64| {
            if timestep < 0 {
                end
            } else {
                schedule.level(timestep as f64)
            }
        };
        Walk {
            name: name.clone(),
            sampler,
            denoiser: NetworkDenoiser {
                network: toy_network,
                prediction: config.prediction,
                clip: config.clip,
            },
            steps: from
                .iter()
                .zip(to)
                .map(|(&from, to)| (level(from), level(to)))
                .collect(),
            levels,
            schedule,
            z: rows(&tensors, &format!("{name}/z")),
            z0: rows(&tensors, &format!("{name}/z0")),
            noise: rows(&tensors, &format!("{name}/noise")),
        }
    };
    let walks: Vec<Walk> = fixture.metadata.iter().map(walk).collect();
    assert_eq!(walks.len(), 66);
    walks
}

/// Every step on its own, from diffusers' input to its output: within 1e-5 of the largest value.
/// The estimate z0 = (zt - b noise) / a is a small difference divided by a small number where there
/// is little signal, so one rounding of zt, divided by a, is added to its tolerance.
#[test]
fn every_step_matches() {
    let (mut worst_z, mut worst_z0) = (0.0f64, 0.0f64);
    for walk in walks() {
        for (index, &(from, to)) in walk.steps.iter().enumerate() {
            // One more level makes this a step in the middle, where DDPM adds noise.
            let clean = Level {
                timestep: 0.0,
                rates: Rates {
                    signal: 1.0,
                    noise: 0.0,
                },
            };
            let mut levels = vec![from, to];
            if index + 1 < walk.steps.len() {
                levels.push(clean);
            }
            let rounding = f64::from(f32::EPSILON) * largest(&walk.z[index]);
            let magnified = match walk.denoiser.prediction {
                Prediction::Noise => rounding / from.rates.signal,
                _ => 0.0,
            };
            let mut compare = |progress: StepTaken<'_>| {
                if progress.step == 1 {
                    let z = relative_error(progress.z, &walk.z[index + 1]);
                    let z0 = relative_error(progress.z0, &walk.z0[index]);
                    (worst_z, worst_z0) = (worst_z.max(z), worst_z0.max(z0));
                    assert!(
                        z < 1e-5 && z0 < 1e-5 + magnified,
                        "{} step {index}: z {z:e}, z0 {z0:e}",
                        walk.name
                    );
                }
            };
            let noise = walk.noise[index].clone();
            let start = walk.z[index].clone();
            walk.sampler
                .sample(
                    &walk.denoiser,
                    start,
                    &levels,
                    &walk.schedule,
                    &mut |_| noise.clone(),
                    &mut compare,
                )
                .unwrap();
        }
    }
    eprintln!("worst step: z {worst_z:.1e}, z0 {worst_z0:.1e}");
}

/// Whole walks of 7 to 100 steps, on our own levels: within 1e-5 of the largest value at every
/// step, 2e-5 for the walk of 100, over which diffusers' f32 coefficients (1 - alpha_bar has few
/// digits near the image) add up. diffusers' DDIM with linspace does not step to the timestep that
/// it visits next, so it has no such walk.
#[test]
fn every_walk_matches() {
    let mut count = 0;
    let (mut worst, mut worst_of_100) = (0.0f64, 0.0f64);
    for walk in walks() {
        let visited: Vec<Level> = walk.steps.iter().map(|&(from, _)| from).collect();
        assert_eq!(visited, walk.levels[..visited.len()], "{}", walk.name);
        if walk.steps.windows(2).any(|pair| pair[0].1 != pair[1].0) {
            assert!(
                walk.name.contains("ddim") && walk.name.contains("linspace"),
                "{}",
                walk.name
            );
            continue;
        }
        let mut compare = |progress: StepTaken<'_>| {
            let error = relative_error(progress.z, &walk.z[progress.step]);
            let worst = if progress.steps < 100 {
                &mut worst
            } else {
                &mut worst_of_100
            };
            *worst = worst.max(error);
            let tolerance = if progress.steps < 100 { 1e-5 } else { 2e-5 };
            assert!(
                error < tolerance,
                "{} step {}: {error:e}",
                walk.name,
                progress.step
            );
        };
        let mut fresh_noise = |step: usize| walk.noise[step - 1].clone();
        let start = walk.z[0].clone();
        walk.sampler
            .sample(
                &walk.denoiser,
                start,
                &walk.levels,
                &walk.schedule,
                &mut fresh_noise,
                &mut compare,
            )
            .unwrap();
        count += 1;
    }
    assert_eq!(count, 63);
    eprintln!("worst walk: {worst:.1e}, of 100 steps: {worst_of_100:.1e}");
}

/// The sums in diffusers' own tests of its DDIM scheduler (`test_full_loop_*`), to the digits given
/// there.
#[test]
fn the_full_loops_of_diffusers_tests_match() {
    let sum_of_absolute_values = |schedule: ScheduleConfig, prediction, final_level| {
        let schedule = Schedule::new(schedule).unwrap();
        let options = LevelOptions {
            final_level,
            ..Default::default()
        };
        let levels = levels(&schedule, 10, options).unwrap();
        let denoiser = NetworkDenoiser {
            network: toy_network,
            prediction,
            clip: Some(Clip::Range(1.0)),
        };
        let values: Vec<f32> = (0..768).map(|i| i as f32 / 768.0).collect();
        let noise = Tensor::from_data(TensorData::new(values, [4, 3, 8, 8]), &Device::flex());
        let z = Sampler::default()
            .sample(
                &denoiser,
                noise,
                &levels,
                &schedule,
                &mut |_| unreachable!(),
                &mut |_| (),
            )
            .unwrap();
        f64::from(z.abs().sum().into_scalar::<f32>())
    };
    let default = ScheduleConfig::default;
    let steeper = || {
        ScheduleConfig::of(ScheduleKind::Linear(BetaRange {
            beta_start: 0.01,
            ..BetaRange::DEFAULT
        }))
    };
    for (schedule, prediction, final_level, expected) in [
        (default(), Prediction::Noise, FinalLevel::Clean, 172.0067),
        (default(), Prediction::Velocity, FinalLevel::Clean, 52.5302),
        (steeper(), Prediction::Noise, FinalLevel::Clean, 149.8295),
        (steeper(), Prediction::Noise, FinalLevel::First, 149.0784),
    ] {
        let sum = sum_of_absolute_values(schedule, prediction, final_level);
        assert!(
            (sum - expected).abs() < 1e-3,
            "{prediction:?} {final_level:?}: {sum}"
        );
        if expected == 172.0067 {
            assert!((sum / 768.0 - 0.223967).abs() < 1e-6);
        }
    }
}
