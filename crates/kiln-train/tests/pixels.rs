//! Pixel space and classes: what is learnt, and what the model records of it.

mod common;

use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use common::{column, in_pixel_space, options, pixels};
use image::{GrayImage, Luma};
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_diffusion::{Clip, Schedule, noise};

fn model(run: &Path) -> DiffusionModel {
    let folder = ModelSource::Folder(run.join("model"));
    DiffusionModel::load(&folder, &Device::flex()).unwrap()
}

#[test]
fn the_images_themselves_are_learned() {
    let place = tempfile::tempdir().unwrap();
    let experiment = pixels(&[
        "stage_2.training.steps=200",
        "stage_2.training.checkpoint_every=50",
        "stage_2.training.pictures_every=4",
    ]);
    let report = in_pixel_space(&experiment, &options(place.path())).unwrap();
    assert_eq!((report.stage, report.steps), ("diffusion", 200));
    let losses: Vec<f64> = column(place.path(), "loss/valid").into_values().collect();
    assert!(
        losses.is_sorted_by(|before, after| before > after),
        "{losses:?}"
    );
    // A network that answers zero has a loss of 1.
    assert!(losses[3] < 0.4, "{losses:?}");
    assert!(!place.path().join("latents").exists());

    let model = model(place.path());
    assert!(model.first_stage.is_none());
    assert_eq!(model.scheduler.clip, Some(Clip::Range(1.0)));
    assert_eq!(model.metadata.class_names.len(), 10);
    assert_eq!(model.unet.config().num_class_embeds, Some(11));
}

#[test]
fn a_picture_has_a_row_for_each_class() {
    let place = tempfile::tempdir().unwrap();
    in_pixel_space(&pixels(&[]), &options(place.path())).unwrap();
    let picture = place.path().join("diffusion/samples/step-0000010.png");
    let picture = image::open(picture).unwrap().into_luma8();
    // 24 images make two whole columns of ten digits, each 8x8 with gaps of 2.
    assert_eq!(picture.dimensions(), (2 * 10 + 2, 10 * 10 + 2));
}

/// 24 black and 24 white squares.
fn dark_and_bright(folder: &Path) {
    for (class, brightness) in [("bright", 255), ("dark", 0)] {
        let folder = folder.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..24 {
            let square = GrayImage::from_pixel(8, 8, Luma([brightness]));
            square.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
}

/// The model's error at nearly pure noise if it gets `labels`. The images are one white and one black.
fn error(model: &DiffusionModel, labels: [i64; 2]) -> f32 {
    let device = Device::flex();
    let schedule = Schedule::new(model.scheduler.schedule.clone()).unwrap();
    let z0 = Tensor::<4>::ones([2, 1, 8, 8], &device)
        * Tensor::<4>::from_floats([[[[1.0]]], [[[-1.0]]]], &device);
    let noise: Vec<f32> = (0..2)
        .flat_map(|image| noise::normal(5, image, 0, 64))
        .collect();
    let noise = Tensor::<1>::from_floats(noise.as_slice(), &device).reshape([2, 1, 8, 8]);
    let rates = schedule.rates(900.0);
    let zt = rates.add_noise(z0.clone(), noise);
    let labels = Tensor::<1, Int>::from_ints(labels, &device);
    let timesteps = Tensor::<1>::from_floats([900.0, 900.0], &device);
    let output = model.unet.forward(zt.clone(), timesteps, Some(labels));
    let answer = model.scheduler.prediction.denoised(output, zt, &rates);
    (answer.z0 - z0).square().mean().into_scalar::<f32>()
}

#[test]
fn what_a_network_is_told_decides_what_it_sees_in_noise() {
    let place = tempfile::tempdir().unwrap();
    let squares = place.path().join("squares");
    dark_and_bright(&squares);
    let path = format!("data.path={:?}", squares.display().to_string());
    let experiment = pixels(&[
        "data.dataset=folder",
        &path,
        "unet.num_class_embeds=3",
        "stage_2.prediction=velocity",
        "stage_2.training.steps=150",
        "stage_2.training.checkpoint_every=150",
        "stage_2.training.pictures_every=0",
    ]);
    in_pixel_space(&experiment, &options(place.path())).unwrap();
    let model = model(place.path());
    assert_eq!(model.metadata.class_names, ["bright", "dark"]);
    let (right, wrong) = (error(&model, [0, 1]), error(&model, [1, 0]));
    let untold = error(&model, [2, 2]);
    // A guess between black and white has an error of 1, the other colour of 4.
    assert!(right < 0.2, "told the truth: {right}");
    assert!(wrong > 2.0, "told the other class: {wrong}");
    assert!(right < untold && untold < wrong, "told nothing: {untold}");
}

#[test]
fn images_without_labels_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let squares = place.path().join("squares");
    std::fs::create_dir(&squares).unwrap();
    for number in 0..4 {
        let square = GrayImage::new(8, 8);
        square.save(squares.join(format!("{number}.png"))).unwrap();
    }
    let path = format!("data.path={:?}", squares.display().to_string());
    let experiment = pixels(&["data.dataset=folder", &path]);
    let error = in_pixel_space(&experiment, &options(place.path())).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("unet.num_class_embeds = 11") && message.contains("no labels"),
        "{message}"
    );
}

/// Validation visits the first timestep, and an embedding may use its logarithm.
#[test]
fn every_way_to_tell_the_time_is_validated() {
    for kind in ["positional", "fourier", "learned", "noise_power"] {
        let place = tempfile::tempdir().unwrap();
        let experiment = pixels(&[
            &format!("unet.time_embedding_type={kind}"),
            "stage_2.training.pictures_every=0",
        ]);
        in_pixel_space(&experiment, &options(place.path())).unwrap();
        for metric in ["loss/valid", "noise mse/valid", "loss/train"] {
            let values = column(place.path(), metric);
            let steps: Vec<_> = values.keys().copied().collect();
            assert_eq!(steps, [4, 8, 10], "{kind}: {metric}");
            assert!(
                values.values().all(|value| value.is_finite()),
                "{kind}: {values:?}"
            );
        }
    }
}
