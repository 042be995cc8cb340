//! Compares a GPU's results with the processor's. In a build for GPUs, it uses the device in KILN_TEST_DEVICE or
//! otherwise the backend's first.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "metal",
    feature = "wgpu",
    feature = "cubecl-cpu"
))]

#[path = "../../kiln-train/tests/common/mod.rs"]
mod common;

use std::{env, fs, path::Path};

use burn::tensor::{Device, Tensor};
use common::{Train, experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use kiln::pictures::Images;
use kiln::{DeviceError, Devices, Moment, Pipeline, Precision, SampleOptions};
use kiln_train::{Experiment, RunOptions};

/// The largest difference of two latents, whose standard deviation is 1.
///
/// NVIDIA's matrix units round the factors of f32 products to 11 bits (TF32), and Burn 0.22 leaves no choice: 1e-3 on
/// an H100. If numbers stay f32 it is 1e-5.
const LATENTS: f32 = 5e-3;

/// The mean difference of two pixels: a few are in a patch for which the first stage chooses a neighbouring code.
const PIXELS: f32 = 1e-3;

/// The root mean square difference of two weights. Five steps move each of them by more than 1e-3, in the wrong direction if
/// a gradient is wrong.
const WEIGHTS: f32 = 2e-4;

/// The largest relative difference of two metrics.
const METRICS: f32 = 0.02;

fn name() -> String {
    let default = [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "rocm"), "rocm"),
        (cfg!(feature = "metal"), "metal"),
        (cfg!(feature = "wgpu"), "wgpu"),
        (cfg!(feature = "cubecl-cpu"), "cubecl-cpu"),
    ];
    let built_in = default.iter().find(|(built_in, _)| *built_in);
    env::var("KILN_TEST_DEVICE").unwrap_or_else(|_| built_in.unwrap().1.to_owned())
}

/// The device; or `None`, with a message, if there is none.
fn gpu() -> Option<Devices> {
    match Devices::parse(&name()) {
        Ok(devices) => Some(devices),
        Err(error @ DeviceError::NoneFound { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Differences between numbers of the GPU and of the processor.
struct Differences {
    largest: f32,
    mean: f32,
    root_mean_square: f32,
}

fn differences(what: &str, of_gpu: &[f32], of_cpu: &[f32]) -> Differences {
    assert_eq!(of_gpu.len(), of_cpu.len(), "{what}");
    let all = || {
        of_gpu
            .iter()
            .zip(of_cpu)
            .map(|(gpu, cpu)| (gpu - cpu).abs())
    };
    let mean_of = |sum: f32| sum / of_gpu.len() as f32;
    let found = Differences {
        // For `total_cmp` a NaN is the largest.
        largest: all().max_by(f32::total_cmp).unwrap(),
        mean: mean_of(all().sum()),
        root_mean_square: mean_of(all().map(|difference| difference.powi(2)).sum()).sqrt(),
    };
    eprintln!(
        "{what} differ by {:.1e} at most, {:.1e} in the mean, {:.1e} in the root mean square",
        found.largest, found.mean, found.root_mean_square
    );
    found
}

#[test]
fn drawn_images_are_those_of_the_processor() {
    let Some(gpu) = gpu() else { return };
    let draw = |device: &Device| -> (Vec<f32>, Images) {
        // The program may have been built on another machine.
        let built_in = env!("CARGO_MANIFEST_DIR").to_owned();
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or(built_in);
        let folder = Path::new(&here).join("../../pretrained/mnist-many-steps");
        let pipeline = Pipeline::load(&folder, device).unwrap();
        let options = SampleOptions {
            steps: 10,
            count: 4,
            // By default, processors may round factors.
            precision: Precision::F32,
            ..pipeline.default_options()
        };
        let mut latents: Option<Tensor<4>> = None;
        let observer = &mut |moment: Moment<'_>| {
            latents = Some(moment.latents.clone());
            Ok(())
        };
        let images = pipeline.sample(options.observed(observer));
        let latents = latents.unwrap().into_data();
        (latents.iter::<f32>().collect(), images.unwrap())
    };
    let (of_gpu, of_cpu) = (draw(&gpu.first()), draw(&Device::flex()));
    let latents = differences("latents", &of_gpu.0, &of_cpu.0);
    let pixels = differences("pixels", of_gpu.1.values(), of_cpu.1.values());
    assert!(latents.largest < LATENTS && pixels.mean < PIXELS);
}

/// A training on `devices`: the weights after it, and the last row of each `metrics.csv`.
fn trained(
    train: Train,
    experiment: Experiment,
    devices: &Devices,
    vqvae: Option<&Path>,
) -> (Vec<f32>, Vec<f32>) {
    let place = tempfile::tempdir().unwrap();
    let options = RunOptions {
        devices: devices.clone(),
        vqvae: vqvae.map(Path::to_owned),
        ..options(place.path())
    };
    train(&experiment, &options).unwrap();
    let tables =
        ["vqvae", "diffusion", "."].map(|stage| place.path().join(stage).join("metrics.csv"));
    let rows = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok());
    let rows = rows.flat_map(|table| {
        let numbers = table.lines().last().unwrap_or_default().split(',');
        numbers
            .filter_map(|number| number.parse().ok())
            .collect::<Vec<f32>>()
    });
    (weights(place.path()), rows.collect())
}

// The third step may be recorded, and is then repeated.
#[test]
fn five_training_steps_of_each_kind_end_with_the_weights_of_the_processor() {
    let Some(gpu) = gpu() else { return };
    let place = tempfile::tempdir().unwrap();
    stage_1(&experiment(&[]), &options(place.path())).unwrap();
    let vqvae = place.path().join("vqvae/model");
    let check =
        |what: &str, train: Train, experiment: &dyn Fn() -> Experiment, vqvae: Option<&Path>| {
            let repeats = kiln_kernels::repeats();
            let [of_gpu, of_cpu] =
                [&gpu, &Devices::cpu()].map(|devices| trained(train, experiment(), devices, vqvae));
            assert!(!of_cpu.1.is_empty(), "{what}: no metrics");
            for (gpu, cpu) in of_gpu.1.iter().zip(&of_cpu.1) {
                let apart = (gpu - cpu).abs() / cpu.abs().max(1.0);
                assert!(
                    apart < METRICS,
                    "{what}: {:?} is not {:?}",
                    of_gpu.1,
                    of_cpu.1
                );
            }
            if kiln_kernels::records_launches() && !what.contains("stage 1") {
                assert!(kiln_kernels::repeats() > repeats, "{what}: not recorded");
            }
            differences(what, &of_gpu.0, &of_cpu.0).root_mean_square
        };
    // The initial codes, and the choice of codes to restart, would depend on the last bit.
    let of_stage_1 = || {
        experiment(&[
            "stage_1.training.steps=5",
            "codebook.kmeans_start=false",
            "codebook.restart_below=0.0",
        ])
    };
    let of_kl = || common::with_kl(&["stage_1.training.steps=5"]);
    let of_stage_2 = || experiment(&["stage_2.training.steps=5"]);
    let of_pixels = || {
        pixels(&[
            "stage_2.training.steps=5",
            "stage_2.training.learning_rate=1e-3",
        ])
    };
    let found = [
        check("weights of stage 1", stage_1, &of_stage_1, None),
        check("weights of stage 1, KL", stage_1, &of_kl, None),
        check("weights of stage 2", stage_2, &of_stage_2, Some(&vqvae)),
        check("weights in pixel space", in_pixel_space, &of_pixels, None),
    ];
    assert!(found.iter().all(|&difference| difference < WEIGHTS));
}

#[test]
fn rounded_factors_learn_as_exact_ones_do() {
    let Some(gpu) = gpu() else { return };
    if !Precision::Bf16.runs_on(&gpu.first()) {
        eprintln!("skipped: {gpu} has no bf16");
        return;
    }
    let metrics = |devices: &Devices, precision: &str, seed: u64| {
        let settings = [
            format!("seed={seed}"),
            format!("stage_2.training.precision=\"{precision}\""),
            "stage_2.training.steps=40".to_owned(),
            "stage_2.training.learning_rate=1e-3".to_owned(),
        ];
        let experiment = pixels(&settings.each_ref().map(String::as_str));
        trained(in_pixel_space, experiment, devices, None).1
    };
    let exact = metrics(&Devices::cpu(), "f32", 0);
    let rounded = metrics(&gpu, "bf16", 0);
    let of_another_seed = metrics(&Devices::cpu(), "f32", 1);
    println!("f32 {exact:?}, bf16 {rounded:?}, f32 of another seed {of_another_seed:?}");
    assert!(!exact.is_empty() && exact.len() == rounded.len());
    let apart = |metrics: &[f32]| -> f32 {
        let squares = metrics.iter().zip(&exact);
        squares
            .map(|(a, b)| ((a - b) / b.abs().max(1e-3)).powi(2))
            .sum()
    };
    assert!(apart(&rounded) < apart(&of_another_seed));
}

#[test]
fn a_device_that_is_not_there_is_a_sentence() {
    if gpu().is_none() {
        return;
    }
    let kind = name().split(':').next().unwrap().to_owned();
    let error = Devices::parse(&format!("{kind}:4096")).unwrap_err();
    assert!(
        matches!(error, DeviceError::NoSuchIndex { index: 4096, .. }),
        "{error}"
    );
}
