//! A training with the weights of a trained model continues from them.

mod common;

use std::path::{Path, PathBuf};

use common::{
    Train, assert_close, experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights,
    with_kl,
};
use kiln_checkpoint::{DiffusionModel, FirstStage, ModelSource};
use kiln_train::{Experiment, RunOptions};

/// With these overrides the U-Net's steps make no visible change. The seed differs, so that newly drawn weights would
/// be others.
const STILL: [&str; 4] = [
    "seed=4",
    "stage_2.training.steps=2",
    "stage_2.training.learning_rate=1e-9",
    "stage_2.training.final_learning_rate=0.0",
];

/// The same for the VQ-VAE.
const STILL_VQVAE: [&str; 4] = [
    "stage_1.training.steps=2",
    "stage_1.training.learning_rate=1e-9",
    "stage_1.training.final_learning_rate=0.0",
    "codebook.decay=0.9999999",
];

/// Trains both stages in the run folder `out` and returns the model's folder.
fn trained(out: &Path) -> PathBuf {
    stage_1(&experiment(&[]), &options(out)).unwrap();
    stage_2(&experiment(&[]), &options(out)).unwrap();
    out.join("model")
}

fn further(out: PathBuf, model: &Path) -> RunOptions {
    RunOptions {
        initial_weights: Some(model.to_owned()),
        ..options(&out)
    }
}

#[test]
fn both_stages_begin_where_the_model_ended() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    let model = trained(&before);
    let still = experiment(&[STILL, STILL_VQVAE].concat());
    stage_1(&still, &further(after.clone(), &model)).unwrap();
    stage_2(&still, &further(after.clone(), &model)).unwrap();
    assert_close(&weights(&before), &weights(&after), "begun");

    let device = burn::tensor::Device::flex();
    let stage = FirstStage::load(&ModelSource::Folder(after.join("vqvae/model")), &device);
    let model = DiffusionModel::load(&ModelSource::Folder(after.join("model")), &device);
    for metadata in [stage.unwrap().metadata, model.unwrap().metadata] {
        let fact = |name: &str| metadata.training[name].clone();
        assert_eq!(
            (fact("steps"), fact("earlier_steps")),
            ("2".into(), "10".into())
        );
    }
}

#[test]
fn a_resume_before_the_first_checkpoint_begins_with_the_weights_again() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    stage_1(&experiment(&[]), &options(&before)).unwrap();
    let still = experiment(&[STILL, STILL_VQVAE].concat());
    let begun_with = after.join("vqvae/begun-with.json");
    // What is left if the training is killed before its first checkpoint.
    let train_and_forget = |options: &RunOptions| {
        stage_1(&still, options).unwrap();
        for name in ["checkpoints", "model"] {
            std::fs::remove_dir_all(after.join("vqvae").join(name)).unwrap();
        }
        std::fs::remove_file(after.join("vqvae/metrics.csv")).unwrap();
    };
    train_and_forget(&further(after.clone(), &before.join("vqvae/model")));
    let resumed = RunOptions {
        resume: true,
        ..options(&after)
    };
    stage_1(&still, &resumed).unwrap();
    assert_close(&weights(&before), &weights(&after), "resumed");

    train_and_forget(&resumed);
    std::fs::write(&begun_with, "{").unwrap();
    let error = stage_1(&still, &resumed).unwrap_err();
    assert!(
        error.to_string().contains("begun-with.json does not say"),
        "{error}"
    );
    // Without --resume it is another training, with random weights.
    stage_1(&still, &options(&after)).unwrap();
    assert!(!begun_with.exists());
}

#[test]
fn an_autoencoder_kl_begins_where_the_model_ended() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    stage_1(&with_kl(&[]), &options(&before)).unwrap();
    let model = before.join("vqvae/model");
    // As models from elsewhere have it. It changes no weights.
    edit(
        &model.join("config.json"),
        &[("shift_factor", 0.1.into()), ("scaling_factor", 0.5.into())],
    );
    let still = ["seed=4"].iter().chain(&STILL_VQVAE[..3]);
    let still = with_kl(&still.copied().collect::<Vec<_>>());
    stage_1(&still, &further(after.clone(), &model)).unwrap();
    assert_close(&weights(&before), &weights(&after), "begun");
}

#[test]
fn without_a_first_stage_of_its_own_a_run_takes_the_models() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    let model = trained(&before);
    stage_2(&experiment(&[]), &further(after.clone(), &model)).unwrap();
    let hash = |run: &Path| {
        let model = ModelSource::Folder(run.join("model"));
        let model = DiffusionModel::load(&model, &burn::tensor::Device::flex());
        model.unwrap().metadata.vqvae_hash
    };
    assert_eq!(hash(&before), hash(&after));
}

#[test]
fn pixel_space_begins_where_the_model_ended_and_resumes_as_ever() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    in_pixel_space(&pixels(&[]), &options(&before)).unwrap();
    let model = before.join("model");
    in_pixel_space(&pixels(&STILL), &further(after.clone(), &model)).unwrap();
    assert_close(&weights(&before), &weights(&after), "begun");

    // The checkpoint has priority over the initial weights.
    let whole = further(place.path().join("whole"), &model);
    in_pixel_space(&pixels(&[]), &whole).unwrap();
    let pieces = further(place.path().join("pieces"), &model);
    common::in_pieces(in_pixel_space, &pixels(&[]), &pieces, &[3, 7]);
    assert!(weights(&whole.out) == weights(&pieces.out));
}

/// Writes other values of keys that change no weights into a network's config.
fn edit(config: &Path, changes: &[(&str, serde_json::Value)]) {
    let text = std::fs::read_to_string(config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes {
        json[key] = value.clone();
    }
    std::fs::write(config, json.to_string()).unwrap();
}

#[test]
fn the_keys_that_change_no_weights_are_the_experiments() {
    let place = tempfile::tempdir().unwrap();
    let [before, after] = ["before", "after"].map(|name| place.path().join(name));
    let model = trained(&before);
    edit(
        &model.join("unet/config.json"),
        &[("sample_size", 64.into()), ("dropout", 0.5.into())],
    );
    edit(
        &model.join("vqvae/config.json"),
        &[("sample_size", 64.into())],
    );
    let still = experiment(&[STILL, STILL_VQVAE].concat());
    stage_1(&still, &further(after.clone(), &model)).unwrap();
    stage_2(&still, &further(after.clone(), &model)).unwrap();
    assert_close(&weights(&before), &weights(&after), "begun");
    // Without the key, too, in which a model cannot be drawn from.
    let nowhere = place.path().join("nowhere");
    edit(
        &model.join("unet/config.json"),
        &[("sample_size", serde_json::Value::Null)],
    );
    stage_2(&still, &further(nowhere.clone(), &model)).unwrap();

    let device = burn::tensor::Device::flex();
    for run in [after, nowhere] {
        let folder = ModelSource::Folder(run.join("model"));
        let model = DiffusionModel::load(&folder, &device).unwrap();
        let unet = model.unet.config();
        let size = unet.sample_size.unwrap().height_and_width();
        assert_eq!((size, unet.dropout), ([16, 16], 0.0));
        if run.join("vqvae").exists() {
            let first_stage = model.first_stage.unwrap();
            assert_eq!(first_stage.network.config().sample_size(), 32);
        }
    }
}

#[test]
fn weights_of_another_network_are_refused_with_the_key() {
    let place = tempfile::tempdir().unwrap();
    let model = trained(&place.path().join("before"));
    let of_pixels = place.path().join("pixels");
    in_pixel_space(&pixels(&[]), &options(&of_pixels)).unwrap();
    let of_pixels = of_pixels.join("model");
    let kl = place.path().join("kl");
    stage_1(&with_kl(&[]), &options(&kl)).unwrap();
    let kl = kl.join("vqvae/model");
    let cases: [(Train, Experiment, &Path, &str); 8] = [
        (stage_1, experiment(&[]), &kl, "[vqvae] is of VQModel"),
        (stage_1, with_kl(&[]), &model, "[autoencoder_kl] is of Auto"),
        (
            stage_1,
            with_kl(&["autoencoder_kl.use_quant_conv=false"]),
            &kl,
            "autoencoder_kl.use_quant_conv=true",
        ),
        (
            stage_1,
            experiment(&["vqvae.num_vq_embeddings=8"]),
            &model,
            "vqvae.num_vq_embeddings=16",
        ),
        (
            stage_2,
            experiment(&["unet.layers_per_block=2"]),
            &model,
            "unet.layers_per_block=1",
        ),
        (in_pixel_space, pixels(&[]), &model, "unet."),
        (stage_1, experiment(&[]), place.path(), "is not a VQ-VAE"),
        (stage_1, experiment(&[]), &of_pixels, "in pixel space"),
    ];
    for (number, (train, experiment, model, words)) in cases.into_iter().enumerate() {
        let out = place.path().join(number.to_string());
        let sentence = train(&experiment, &further(out.clone(), model))
            .unwrap_err()
            .to_string();
        assert!(sentence.contains(words), "{sentence}");
        assert!(!out.exists(), "refused only after work was done");
    }
}
