//! `kiln model info`.

use crate::{Workplace, tiny, training};

#[test]
fn without_a_path_it_is_the_built_in_model() {
    let described = Workplace::new().json("model info --json");
    assert_eq!(described["model"], "the built-in model");
    assert_eq!(described["sample"]["steps"], 4);
    assert!(described["unet"]["training"].is_object(), "{described}");
}

#[test]
fn a_model_is_described_part_by_part() {
    let workplace = Workplace::new();
    let info = workplace.json("model info model --json");
    assert_eq!(info["vqvae"]["class"], "VQModel");
    assert_eq!(info["vqvae"]["image_shape"], serde_json::json!([1, 8, 8]));
    assert_eq!(info["vqvae"]["latent_shape"], serde_json::json!([2, 4, 4]));
    assert_eq!(
        (&info["vqvae"]["border"], &info["vqvae"]["codes"]),
        (&1.into(), &tiny::CODES.into())
    );
    assert_eq!(info["vqvae"]["latent_standard_deviation"], 2.0);
    assert_eq!(info["unet"]["sample_shape"], serde_json::json!([2, 4, 4]));
    assert!(info["unet"]["parameters"].as_u64() > Some(1000));
    assert_eq!(info["unet"]["training"]["dataset"], "nothing");
    assert_eq!(info["diffusion"]["prediction"], "noise");
    assert_eq!(info["diffusion"]["num_train_timesteps"], tiny::TIMESTEPS);
    let terminal = info["diffusion"]["terminal_signal_rate"].as_f64().unwrap();
    assert!(
        terminal > 0.5,
        "20 steps of DDPM's betas leave much of the image: {terminal}"
    );
    assert!(info["diffusion"]["warning"].is_string());
    assert_eq!(info["sample"]["steps"], tiny::TIMESTEPS);
    assert_eq!(info["sample"]["sampler"]["kind"], "ddim");
}

#[test]
fn words_say_the_same() {
    let workplace = Workplace::new();
    let said = workplace.succeed("model info model");
    for words in [
        "VQModel",
        "UNet2DModel",
        "1 x 8 x 8",
        "2 x 4 x 4",
        "linear, 20 timesteps",
        "nothing",
        "64 images by ddim (eta 0) in 20 steps, leading spacing, no guidance",
    ] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
}

#[test]
fn a_vqvae_alone_is_a_model_too() {
    let workplace = Workplace::new();
    let info = workplace.json("model info model/vqvae --json");
    assert_eq!(info["vqvae"]["codes"], tiny::CODES);
    assert!(info.get("unet").is_none());
}

#[test]
fn a_factor_that_nobody_has_measured_is_not_shown() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae");
    let place = "model info runs/experiment/vqvae/model";
    let said = workplace.succeed(place);
    assert!(said.contains("not measured"), "{said}");
    let info = workplace.json(&format!("{place} --json"));
    assert!(info["vqvae"]["scaling_factor"].is_null());
    training::train(&workplace, "train-latent-diffusion");
    let info = workplace.json("model info runs/experiment/model --json");
    assert!(info["vqvae"]["scaling_factor"].is_number());
}

#[test]
fn no_escape_sequence_of_a_file_reaches_the_terminal() {
    let workplace = Workplace::new();
    let mut model = tiny::model();
    let facts = &mut model.metadata.training;
    facts.insert(
        "data\u{1b}[2Jset".to_owned(),
        "\u{9b}31mred\nfake: row".to_owned(),
    );
    model
        .save(&workplace.path("evil"), Default::default())
        .unwrap();
    for (line, written) in [
        ("model info evil", r"data\u{1b}[2Jset"),
        ("model info evil --json", r"data\u001b[2Jset"),
    ] {
        let said = workplace.succeed(line);
        assert!(said.contains(written), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{9b}']), "{said}");
    }
    let sentence = workplace.fail("model info no\u{1b}]0;title\u{7}where");
    assert!(
        sentence.contains(r"no\u{1b}]0;title\u{7}where"),
        "{sentence}"
    );
}
