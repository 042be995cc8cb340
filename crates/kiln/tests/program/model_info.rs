//! `kiln model info`.

use crate::{Workplace, tiny};

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
