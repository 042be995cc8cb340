//! The files of `B.from_config(A.config)`, which still contain A's keys, for every A and B, and how B reads them, from
//! `tests/fixtures/diffusion/from_config.json` (made by `from_config.py` there).

use kiln_diffusion::sampler::{Churn, Sampler, Variance};
use kiln_diffusion::{Clip, Prediction, Schedule, SchedulerConfig, levels};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Pair {
    from: String,
    config: String,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
}

fn pairs() -> Vec<Pair> {
    serde_json::from_str(include_str!(
        "../../../../tests/fixtures/diffusion/from_config.json"
    ))
    .unwrap()
}

/// A file's keys, with Python's infinity as JSON has it.
fn keys(pair: &Pair) -> Value {
    serde_json::from_str(&pair.config.replace("-Infinity", "null")).unwrap()
}

/// The sampler of B.
fn expected_sampler(keys: &Value) -> Sampler {
    match keys["_class_name"].as_str().unwrap() {
        "DDIMScheduler" => Sampler::default(),
        "DDPMScheduler" => Sampler::Ddpm {
            variance: match keys["variance_type"] == "fixed_large" {
                true => Variance::Large,
                false => Variance::Small,
            },
        },
        "PNDMScheduler" => Sampler::Pndm,
        "EulerDiscreteScheduler" => Sampler::Euler { churn: Churn::NONE },
        "EulerAncestralDiscreteScheduler" => Sampler::Ddim {
            eta: 1.0,
            variance: Variance::Small,
        },
        "HeunDiscreteScheduler" => Sampler::Heun { churn: Churn::NONE },
        "DPMSolverMultistepScheduler" => Sampler::DpmSolver {
            eta: f64::from(keys["algorithm_type"] == "sde-dpmsolver++"),
        },
        "UniPCMultistepScheduler" => Sampler::UniPc,
        other => panic!("{other}"),
    }
}

/// The clipping of B: only some classes clip, whatever a file says.
fn expected_clip(keys: &Value) -> Option<Clip> {
    let class = keys["_class_name"].as_str().unwrap();
    let clips = ["DDIM", "DDPM", "Heun"];
    let thresholds = ["DDIM", "DDPM", "DPMSolver", "UniPC"];
    let is_one_of = |names: &[&str]| names.iter().any(|name| class.starts_with(name));
    if is_one_of(&thresholds) && keys["thresholding"] == true {
        Some(Clip::Dynamic {
            quantile: keys["dynamic_thresholding_ratio"].as_f64().unwrap(),
            maximum: keys["sample_max_value"].as_f64().unwrap(),
        })
    } else if is_one_of(&clips) && keys["clip_sample"] == true {
        Some(Clip::Range(keys["clip_sample_range"].as_f64().unwrap()))
    } else {
        None
    }
}

/// Reads all of the 191 pairs except those whose B, by its own keys, does something that is not available here.
#[test]
fn what_the_class_means_is_read_whatever_other_classes_left() {
    let (mut read, mut refused) = (0, Vec::new());
    for pair in pairs() {
        let keys = keys(&pair);
        let class = keys["_class_name"].as_str().unwrap();
        let name = format!("{} to {class}", pair.from);
        let config = match SchedulerConfig::from_json(&pair.config) {
            Ok(config) => config,
            Err(error) => {
                refused.push(format!("{name}: {error}"));
                continue;
            }
        };
        assert_eq!(config.sampler, expected_sampler(&keys), "{name}");
        assert_eq!(config.clip, expected_clip(&keys), "{name}");
        let velocity = keys["prediction_type"] == "v_prediction";
        assert_eq!(
            config.prediction == Prediction::Velocity,
            velocity,
            "{name}"
        );

        let by_sigma = |key: &str| keys[key] == true;
        let told_whole_timesteps = class.starts_with("DPMSolver") || class.starts_with("UniPC");
        let rounds = told_whole_timesteps
            && (by_sigma("use_karras_sigmas")
                || by_sigma("use_exponential_sigmas")
                || by_sigma("use_lu_lambdas"));
        let schedule = Schedule::new(config.schedule).unwrap();
        let ours = levels(&schedule, pair.timesteps.len(), config.levels).unwrap();
        for (level, theirs) in ours.iter().zip(&pair.timesteps) {
            let tolerance = if rounds { 1.0 } else { 0.02 };
            let difference = (level.timestep - theirs).abs();
            assert!(difference <= tolerance, "{name}: {level:?} {theirs}");
        }
        for (level, theirs) in ours.iter().zip(&pair.sigmas) {
            let sigma = level.rates.noise / level.rates.signal;
            let near = (sigma / theirs - 1.0).abs() < 1e-3 || sigma == *theirs;
            // diffusers' sigmas of pure noise are 4096.
            let pure_noise = level.rates.signal == 0.0 && *theirs > 4095.0;
            assert!(near || pure_noise, "{name}: {sigma} {theirs}");
        }
        read += 1;
    }
    assert_eq!((read, refused.len()), (189, 2), "{refused:#?}");
    for (refused, words) in refused.iter().zip([
        "`lower_order_final` = false",
        "`final_sigmas_type` = \"sigma_min\"",
    ]) {
        assert!(refused.contains(words), "{refused}");
    }
}
