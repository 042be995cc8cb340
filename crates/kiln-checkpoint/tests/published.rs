//! The public models of this family: kiln reads their configs, and small copies of them, stored in all the ways of
//! public models, draw the same images as in diffusers. `tests/fixtures/published/make.py` made and describes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Level, NetworkDenoiser, Schedule, SchedulerConfig, levels};
use kiln_models::{UNet2dConfig, VqVaeConfig};
use safetensors::SafeTensors;

const STEPS: usize = 10;

fn folder(model: &str) -> PathBuf {
    let fixtures = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/published"
    );
    Path::new(fixtures).join(model)
}

fn small(model: &str) -> ModelSource {
    ModelSource::Folder(folder(model).join("small"))
}

/// The small copy's files in memory, as in a browser's page.
fn fetched(model: &str) -> ModelSource {
    let folder = folder(model).join("small");
    let mut files = BTreeMap::new();
    let mut left = vec![folder.clone()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let parts = path.strip_prefix(&folder).unwrap().iter();
        let parts: Vec<&str> = parts.map(|part| part.to_str().unwrap()).collect();
        files.insert(parts.join("/"), fs::read(&path).unwrap().into());
    }
    let name = model.to_owned();
    ModelSource::Memory { name, files }
}

fn load(source: &ModelSource) -> DiffusionModel {
    DiffusionModel::load(source, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

/// A tensor of `expected.safetensors`.
fn expected(model: &str, name: &str) -> Tensor<4> {
    let bytes = fs::read(folder(model).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let numbers = tensor.data().as_chunks().0.iter();
    let numbers: Vec<f32> = numbers.map(|&four| f32::from_le_bytes(four)).collect();
    let data = TensorData::new(numbers, tensor.shape().to_vec());
    Tensor::from_data(data, &Device::flex())
}

/// The model's images from the noise by DDIM, as in diffusers.
fn draw(model: &DiffusionModel, noise: Tensor<4>) -> Tensor<4> {
    let SchedulerConfig {
        schedule,
        prediction,
        clip,
        levels: options,
        ..
    } = model.scheduler.clone();
    let schedule = Schedule::new(schedule).unwrap();
    let levels = levels(&schedule, STEPS, options).unwrap();
    let denoiser = NetworkDenoiser {
        network: |zt: Tensor<4>, level: Level| {
            let timesteps = level.timesteps(&zt);
            model.unet.forward(zt, timesteps, None)
        },
        prediction,
        clip,
    };
    let latents = Sampler::default()
        .sample(
            &denoiser,
            noise,
            &levels,
            &schedule,
            &mut |_| unreachable!("DDIM draws nothing"),
            &mut |_| (),
        )
        .unwrap();
    match &model.first_stage {
        Some(first_stage) => {
            let autoencoder = &first_stage.network;
            autoencoder.decode(autoencoder.denormalised(latents))
        }
        None => latents,
    }
}

/// Loads the small copy from its folder and from memory, draws, and compares with diffusers: within `tolerance` of
/// pixels in about [-1, 1].
fn assert_draws(model: &str, tolerance: f32) {
    for source in [small(model), fetched(model)] {
        let images = draw(&load(&source), expected(model, "noise"));
        let expected = expected(model, "images");
        assert_eq!(images.dims(), expected.dims());
        let difference = (images - expected).abs().max().into_scalar::<f32>();
        println!("{model}: {difference:.1e}");
        assert!(difference <= tolerance, "{model} is {difference:e} off");
    }
}

/// The published configs make networks with as many parameters as diffusers', and a scheduler.
fn assert_configs(model: &str) {
    let parameters = fs::read_to_string(folder(model).join("parameters.json")).unwrap();
    let parameters: BTreeMap<String, usize> = serde_json::from_str(&parameters).unwrap();
    assert!(!parameters.is_empty());
    for (file, expected) in parameters {
        let text = fs::read_to_string(folder(model).join(&file)).unwrap();
        // Unused networks have no values yet, so this costs no memory.
        let device = Device::flex();
        let found = if text.contains("VQModel") {
            let config = VqVaeConfig::from_json(&text).unwrap();
            config.init(&device, 0).unwrap().num_params()
        } else {
            let config = UNet2dConfig::from_json(&text).unwrap();
            config.init(&device, 0).unwrap().num_params()
        };
        assert_eq!(found, expected, "{model}/{file}");
    }
    let places = ["scheduler/scheduler_config.json", "scheduler_config.json"];
    let scheduler = places.map(|place| fs::read_to_string(folder(model).join(place)).ok());
    let scheduler = scheduler.into_iter().flatten().next().unwrap();
    SchedulerConfig::from_json(&scheduler).unwrap();
}

#[test]
fn cifar10_at_the_root_with_an_old_pickle() {
    assert_configs("google--ddpm-cifar10-32");
    assert_draws("google--ddpm-cifar10-32", 3e-4);
}

#[test]
fn celebahq_in_several_files() {
    assert_configs("google--ddpm-celebahq-256");
    assert_draws("google--ddpm-celebahq-256", 3e-4);
}

#[test]
fn church_with_a_pickle_of_pytorch_1_5() {
    assert_configs("google--ddpm-ema-church-256");
    assert_draws("google--ddpm-ema-church-256", 3e-4);
}

#[test]
fn latent_celebahq_with_old_pickles() {
    assert_configs("CompVis--ldm-celebahq-256");
    assert_draws("CompVis--ldm-celebahq-256", 3e-4);
    // Its latents are decoded unscaled: it is older than the key.
    let first_stage = load(&small("CompVis--ldm-celebahq-256"))
        .first_stage
        .unwrap();
    assert_eq!(first_stage.network.config().scaling_factor(), 1.0);
}

#[test]
fn flowers_in_half_precision() {
    assert_configs("anton-l--ddpm-ema-flowers-64");
    assert_draws("anton-l--ddpm-ema-flowers-64", 3e-4);
}

#[test]
fn mnist_in_one_file() {
    assert_configs("1aurent--ddpm-mnist");
    assert_draws("1aurent--ddpm-mnist", 3e-4);
}
