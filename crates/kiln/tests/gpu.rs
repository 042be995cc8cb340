//! What a GPU computes, beside what the processor computes: in a build for GPUs, on the device that KILN_TEST_DEVICE names
//! or else on the backend's first.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "metal",
    feature = "wgpu"
))]

#[path = "../../kiln-train/tests/common/mod.rs"]
mod common;

use std::{env, path::Path};

use burn::tensor::{Device, Tensor};
use common::{Train, experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use kiln::{Images, Pipeline, SampleOptions};
use kiln_train::{DeviceError, Devices, Experiment, RunOptions};

/// The largest difference between numbers of the two.
const TOLERANCE: f32 = 1e-3;

fn name() -> String {
    let default = [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "rocm"), "rocm"),
        (cfg!(feature = "metal"), "metal"),
        (cfg!(feature = "wgpu"), "wgpu"),
    ];
    let built_in = default.iter().find(|(built_in, _)| *built_in);
    env::var("KILN_TEST_DEVICE").unwrap_or_else(|_| built_in.unwrap().1.to_owned())
}

/// The device, or nothing and a message where there is none.
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

fn assert_close(ours: &[f32], of_cpu: &[f32], what: &str) {
    assert_eq!(ours.len(), of_cpu.len(), "{what}");
    let differences = ours
        .iter()
        .zip(of_cpu)
        .map(|(ours, cpu)| (ours - cpu).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest < TOLERANCE, "{what} differ by {largest}");
    eprintln!("{what} differ by {largest:.1e} at most");
}

#[test]
fn drawn_images_are_those_of_the_processor() {
    let Some(gpu) = gpu() else { return };
    let draw = |device: &Device| -> (Vec<f32>, Images) {
        let pipeline = Pipeline::pretrained(device).unwrap();
        let options = SampleOptions {
            steps: 10,
            count: 4,
            ..pipeline.default_options()
        };
        let mut latents: Option<Tensor<4>> = None;
        let images = pipeline.sample(&options, |moment| {
            latents = Some(moment.latents.clone());
            Ok(())
        });
        let latents = latents.unwrap().into_data();
        (latents.iter::<f32>().collect(), images.unwrap())
    };
    let (of_gpu, of_cpu) = (draw(&gpu.first()), draw(&Device::flex()));
    assert_close(&of_gpu.0, &of_cpu.0, "latents");
    assert_close(of_gpu.1.values(), of_cpu.1.values(), "images");
}

/// Three steps on `devices`, and the weights after them.
fn three_steps(
    train: Train,
    experiment: Experiment,
    devices: &Devices,
    vqvae: Option<&Path>,
) -> Vec<f32> {
    let place = tempfile::tempdir().unwrap();
    let options = RunOptions {
        devices: devices.clone(),
        vqvae: vqvae.map(Path::to_owned),
        ..options(place.path())
    };
    train(&experiment, &options).unwrap();
    weights(place.path())
}

#[test]
fn three_training_steps_of_each_kind_end_with_the_weights_of_the_processor() {
    let Some(gpu) = gpu() else { return };
    let place = tempfile::tempdir().unwrap();
    stage_1(&experiment(&[]), &options(place.path())).unwrap();
    let vqvae = place.path().join("vqvae/model");
    let check =
        |what: &str, train: Train, experiment: &dyn Fn() -> Experiment, vqvae: Option<&Path>| {
            let [of_gpu, of_cpu] = [&gpu, &Devices::cpu()]
                .map(|devices| three_steps(train, experiment(), devices, vqvae));
            assert_close(&of_gpu, &of_cpu, what);
        };
    let of_stage_1 = || experiment(&["stage_1.training.steps=3"]);
    let of_stage_2 = || experiment(&["stage_2.training.steps=3"]);
    let of_pixels = || {
        pixels(&[
            "stage_2.training.steps=3",
            "stage_2.training.learning_rate=1e-3",
        ])
    };
    check("weights of stage 1", stage_1, &of_stage_1, None);
    check("weights of stage 2", stage_2, &of_stage_2, Some(&vqvae));
    check("weights in pixel space", in_pixel_space, &of_pixels, None);
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
