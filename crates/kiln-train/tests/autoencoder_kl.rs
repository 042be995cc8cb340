//! Stage 1 and stage 2 with an `AutoencoderKL`.

mod common;

use std::path::Path;

use burn::tensor::Device;
use common::{assert_close, experiment, in_pieces, options, stage_1, stage_2, weights, with_kl};
use kiln_checkpoint::{DiffusionModel, FirstStage, ModelSource};
use kiln_models::AutoencoderConfig;
use kiln_pipeline::Devices;
use kiln_train::RunOptions;

fn first_stage(run: &Path) -> FirstStage {
    let folder = ModelSource::Folder(run.join("vqvae/model"));
    FirstStage::load(&folder, &Device::flex()).unwrap()
}

/// A column of stage 1's `metrics.csv`.
fn column(run: &Path, name: &str) -> Vec<f64> {
    let csv = std::fs::read_to_string(run.join("vqvae/metrics.csv")).unwrap();
    let mut rows = csv.lines().map(|line| line.split(','));
    let place = rows.next().unwrap().position(|column| column == name);
    let cells = rows.map(|mut row| row.nth(place.unwrap()).unwrap().parse().unwrap());
    cells.collect()
}

#[test]
fn the_loss_is_the_distance_and_the_weighted_divergence_of_a_value() {
    let place = tempfile::tempdir().unwrap();
    stage_1(&with_kl(&[]), &options(place.path())).unwrap();
    for split in ["train", "valid"] {
        let [loss, distance, kl] = ["loss", "reconstruction", "kl"]
            .map(|name| column(place.path(), &format!("{name}/{split}")));
        for row in 0..loss.len() {
            let expected = distance[row] + 1e-2 * kl[row] / (32.0 * 32.0);
            let error = (loss[row] - expected).abs();
            assert!(error < 1e-5 * expected, "{split}: {} {expected}", loss[row]);
            // 2 channels of 16x16 are far from standard normal at the start.
            assert!(kl[row] > 1.0 && 1e-2 * kl[row] / 1024.0 > 1e-4 * distance[row]);
        }
    }
}

#[test]
fn samples_and_the_term_both_count() {
    let place = tempfile::tempdir().unwrap();
    let trained = |name: &str, overrides: &[&str]| {
        let out = place.path().join(name);
        stage_1(&with_kl(overrides), &options(&out)).unwrap();
        (weights(&out), column(&out, "kl/valid"))
    };
    let (usual, divergences) = trained("usual", &["stage_1.training.steps=40"]);
    let heavy = ["stage_1.training.steps=40", "stage_1.kl=10.0"];
    let (other, lower) = trained("heavy", &heavy);
    assert_ne!(usual, other);
    assert!(
        lower.last() < divergences.last(),
        "{lower:?} {divergences:?}"
    );
}

#[test]
fn stage_2_learns_means_and_measures_their_scale() {
    let place = tempfile::tempdir().unwrap();
    let run = options(&place.path().join("run"));
    let tiny = with_kl(&[]);
    stage_1(&tiny, &run).unwrap();
    stage_2(&tiny, &run).unwrap();

    let alone = first_stage(&run.out);
    assert_eq!(alone.measured_scaling_factor(), None);
    let folder = ModelSource::Folder(run.out.join("model"));
    let model = DiffusionModel::load(&folder, &Device::flex()).unwrap();
    let whole = model.first_stage.unwrap();
    assert_eq!(alone.hash(), whole.hash());
    let AutoencoderConfig::Kl(config) = whole.network.config() else {
        panic!("an AutoencoderKL")
    };
    assert_eq!(config.shift_factor, None);
    assert_eq!(config.sample_size, 32);
    let factor = whole.measured_scaling_factor().unwrap();
    // Means of a few steps of training: a sample would deviate by one or more.
    assert!(factor > 1.0, "{factor}");
    let index = std::fs::read_to_string(run.out.join("model/model_index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["_class_name"], "LDMPipeline");
    assert_eq!(
        index["vqvae"],
        serde_json::json!(["diffusers", "AutoencoderKL"])
    );

    // An experiment of the other kind can use it, too.
    let other = RunOptions {
        vqvae: Some(run.out.join("vqvae/model")),
        ..options(&place.path().join("other"))
    };
    stage_2(&experiment(&[]), &other).unwrap();
    let misfit = with_kl(&[
        "autoencoder_kl.latent_channels=3",
        "unet.in_channels=3",
        "unet.out_channels=3",
    ]);
    let other = RunOptions {
        out: place.path().join("misfit"),
        ..other
    };
    let sentence = stage_2(&misfit, &other).unwrap_err().to_string();
    assert!(
        sentence.contains("`autoencoder_kl.latent_channels = 3`"),
        "{sentence}"
    );
}

/// What is scaled and rotated together with the images is the sample.
#[test]
fn every_other_term_goes_with_it() {
    let place = tempfile::tempdir().unwrap();
    let tiny = |more: &[&str]| {
        let terms = [
            "stage_1.equivariance={}",
            "stage_1.adversarial={weight=0.5,start=3,discriminator={channels=8,layers=1}}",
            "stage_1.training.learning_rate=1e-4",
            "stage_1.training.warmup_steps=0",
        ];
        with_kl(&[&terms, more].concat())
    };
    let whole = options(&place.path().join("whole"));
    stage_1(&tiny(&[]), &whole).unwrap();
    let pieces = options(&place.path().join("pieces"));
    in_pieces(stage_1, &tiny(&[]), &pieces, &[3, 4, 9]);
    assert!(weights(&whole.out) == weights(&pieces.out));

    let two = RunOptions {
        devices: Devices::parse("cpu:2").unwrap(),
        ..options(&place.path().join("two"))
    };
    stage_1(&tiny(&["stage_1.training.batch_size=4"]), &two).unwrap();
    assert_close(&weights(&whole.out), &weights(&two.out), "two devices");
}
