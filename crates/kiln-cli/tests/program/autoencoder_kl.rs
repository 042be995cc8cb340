//! `[autoencoder_kl]`: from the training of the first stage to pictures.

use std::fs;

use serde_json::{Value, json};

use crate::{Workplace, training};

/// The experiment of the other tests with an `AutoencoderKL`.
fn workplace() -> Workplace {
    let workplace = training::workplace();
    let kl = training::EXPERIMENT
        .replace("[vqvae]", "[autoencoder_kl]")
        .replace("num_vq_embeddings = 8\n", "");
    fs::write(workplace.path("experiment.toml"), kl).unwrap();
    workplace
}

#[test]
fn it_goes_from_the_first_stage_to_pictures() {
    let workplace = workplace();
    let report = training::train(&workplace, "train-vqvae --out run");
    assert_eq!(report["steps"], 4);
    let doctor = workplace.json("doctor run --json");
    assert_eq!(doctor["broken"], false, "{doctor}");
    training::train(&workplace, "train-latent-diffusion --out run");
    let longer = "--resume --set stage_1.training.steps=6";
    let report = training::train(&workplace, &format!("train-vqvae --out run {longer}"));
    assert_eq!(report["steps"], 6);

    let written = fs::read_to_string(workplace.path("run/config.toml")).unwrap();
    assert!(written.contains("kl = 0.000001") && !written.contains("commitment"));
    let config = fs::read_to_string(workplace.path("run/model/vqvae/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["_class_name"], "AutoencoderKL");
    assert_eq!(config["shift_factor"], json!(null));
    assert_eq!(config["sample_size"], 8);

    let drawn = workplace.draw("--model run/model --count 4 --out run/drawn");
    let again = workplace.draw("--model run/model --count 4 --batch 1 --out run/again");
    assert_eq!(drawn, again);
    let back = workplace.json("reconstruct --model run --data photos --out run/back --json");
    assert_eq!(back["codes"], json!(null));
    assert!(back["psnr"].as_f64().is_some(), "{back}");
    let info = workplace.json("model info run/model --json");
    assert_eq!(info["vqvae"]["class"], "AutoencoderKL");
    assert_eq!(info["vqvae"]["codes"], json!(null));
    // Four steps teach the U-Net nothing, but the latents are right.
    let report = workplace.run("doctor run --json").stdout;
    let report: Value = serde_json::from_slice(&report).unwrap();
    let examined = report["examinations"].as_array().unwrap();
    for check in ["weights", "files", "drawing", "latent scale"] {
        let found = examined.iter().find(|one| one["check"] == check).unwrap();
        assert_eq!(found["findings"], json!([]), "{found}");
        assert_eq!(found["not_examined"], json!(null), "{found}");
    }
    workplace.succeed("push run ada/kl --dry-run page");
    let page = fs::read_to_string(workplace.path("page/README.md")).unwrap();
    assert!(!page.contains("- vq-vae"), "{page}");
    workplace.succeed("push run/vqvae/model ada/kl --dry-run first-stage");
    let page = fs::read_to_string(workplace.path("first-stage/README.md")).unwrap();
    assert!(
        page.contains("from diffusers import AutoencoderKL"),
        "{page}"
    );

    // Its own weights are initial weights, too.
    training::train(
        &workplace,
        "train-vqvae --out further --initial-weights run",
    );
    workplace.succeed("bench --config experiment.toml --work stage-1,decoding --repeats 1");
}

#[test]
fn tables_that_exclude_each_other_are_named() {
    let workplace = workplace();
    let train = "train-vqvae --config experiment.toml --out run";
    for (set, words) in [
        ("codebook.decay=0.9", "[autoencoder_kl] and [codebook]"),
        ("vqvae.in_channels=1", "[vqvae] and [autoencoder_kl]"),
        ("stage_1.commitment=0.1", "only [vqvae]"),
        (
            "autoencoder_kl.block_out_channels=[8,9]",
            "[autoencoder_kl] of the config",
        ),
    ] {
        let sentence = workplace.fail(&format!("{train} --set {set}"));
        assert!(sentence.contains(words), "{sentence}");
        assert!(!workplace.path("run").exists());
    }
}

#[test]
fn latents_can_be_drawn_again_in_each_step() {
    let workplace = workplace();
    training::train(&workplace, "train-vqvae --out run");
    let weights = |run: &str| {
        let file = format!("{run}/model/unet/diffusion_pytorch_model.safetensors");
        fs::read(workplace.path(&file)).unwrap()
    };
    let second = "train-latent-diffusion --vqvae run/vqvae/model --set data.horizontal_flip=true";
    let drawn = format!("{second} --set stage_2.posterior=sample");
    training::train(&workplace, &format!("{second} --out mean"));
    training::train(&workplace, &format!("{drawn} --out drawn"));
    assert_ne!(weights("mean"), weights("drawn"));
    // A run that stopped in between learns from the same samples.
    let halved = "sweep --config drawn.toml --vqvae run/vqvae/model --set seed=0,1 --halving 2";
    fs::copy(
        workplace.path("drawn/config.toml"),
        workplace.path("drawn.toml"),
    )
    .unwrap();
    workplace.run(&format!("{halved} --out halved"));
    assert_eq!(weights("halved/000-seed=0"), weights("drawn"));
    let scale = |run: &str| {
        let config = workplace.path(&format!("{run}/model/vqvae/config.json"));
        let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
        config["scaling_factor"].as_f64().unwrap()
    };
    assert!(scale("drawn") < scale("mean"), "samples lie wider");

    let change = "train-latent-diffusion --out drawn --resume --config experiment.toml";
    let set = "--set stage_2.posterior=mean --set stage_2.training.steps=6";
    let sentence = workplace.fail(&format!("{change} {set}"));
    assert!(sentence.contains("stage_2.posterior"), "{sentence}");
    fs::write(workplace.path("codes.toml"), training::EXPERIMENT).unwrap();
    let codes = "train-latent-diffusion --config codes.toml --set stage_2.posterior=sample";
    let sentence = workplace.fail(codes);
    assert!(sentence.contains("[autoencoder_kl]"), "{sentence}");
}
