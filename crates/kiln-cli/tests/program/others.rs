//! Models of others: public ones in the form of the Hub, and checkpoints of the original code.

use image::{Rgb, RgbImage};

use crate::Workplace;

/// A path in `tests/fixtures`.
fn fixture(name: &str) -> String {
    format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_public_model_draws_with_its_own_sampler() {
    let workplace = Workplace::new();
    let model = fixture("published/google--ddpm-cifar10-32/small");
    let drawn = workplace.json(&format!(
        "sample --model {model} --steps 3 --count 2 --json"
    ));
    assert_eq!(drawn["sampler"]["kind"], "ddpm");
    assert_eq!(drawn["sampler"]["variance"], "large");
    assert_eq!(drawn["spacing"], "leading");
    assert!(workplace.path("samples/steps-0003.png").is_file());
    let info = workplace.json(&format!("model info {model} --json"));
    assert_eq!(info["unet"]["sample_shape"], serde_json::json!([3, 16, 16]));
    let ddim = workplace.json(&format!(
        "sample --model {model} --sampler ddim --steps 3 --count 2 --json"
    ));
    assert_eq!(ddim["sampler"]["kind"], "ddim");
}

#[test]
fn a_converted_model_draws() {
    let workplace = Workplace::new();
    let checkpoint = fixture("convert/latent-diffusion.ckpt");
    let converted = workplace.json(&format!(
        "convert {checkpoint} --to converted --head-channels 16 --image-size 16 --json"
    ));
    assert_eq!(converted["class"], "LDMPipeline");
    let drawn = workplace.json("sample --model converted --steps 2 --count 1 --json");
    assert_eq!(drawn["sampler"]["kind"], "ddim");
    let info = workplace.json("model info converted --json");
    assert_eq!(info["diffusion"]["schedule"], "scaled-linear");
    assert_eq!(info["vqvae"]["scaling_factor"], 0.25);
}

#[test]
fn an_autoencoder_without_codes_gives_images_back() {
    let workplace = Workplace::new();
    let checkpoint = fixture("convert/autoencoder-kl.ckpt");
    let said = workplace.succeed(&format!(
        "convert {checkpoint} --to kl --image-size 16 --half"
    ));
    assert!(said.contains("AutoencoderKL"), "{said}");
    let info = workplace.succeed("model info kl");
    assert!(
        info.contains("AutoencoderKL") && !info.contains("codes"),
        "{info}"
    );
    std::fs::create_dir(workplace.path("photos")).unwrap();
    for shade in [40, 200] {
        let photo = RgbImage::from_pixel(16, 16, Rgb([shade, 90, 255 - shade]));
        photo
            .save(workplace.path(&format!("photos/{shade}.png")))
            .unwrap();
    }
    let measured = workplace.json("reconstruct --model kl --data photos --json");
    assert_eq!(measured["count"], 2);
    assert!(
        measured["psnr"].is_number() && measured["codes"].is_null(),
        "{measured}"
    );
}

#[test]
fn what_cannot_be_converted_is_said_in_a_sentence() {
    let workplace = Workplace::new();
    let lucidrains = fixture("convert/lucidrains.pt");
    let sentence = workplace.fail(&format!("convert {lucidrains} --to other"));
    assert!(sentence.contains("init_conv.weight`"), "{sentence}");
    assert!(!workplace.path("other").exists());
    let sentence = workplace.fail("convert nothing.ckpt --to other");
    assert!(sentence.contains("nothing.ckpt"), "{sentence}");
    for (name, content) in [
        ("notes.ckpt", "# Notes\n".as_bytes()),
        ("changes.md", b"changes of 1.2\n\n- none\n"),
        ("empty.ckpt", b""),
        ("empty.safetensors", b""),
        ("random.pt", b"\x93\x11\xee\x05 nothing"),
    ] {
        std::fs::write(workplace.path(name), content).unwrap();
        let sentence = workplace.fail(&format!("convert {name} --to other"));
        assert!(
            sentence.contains(&format!("{name} is not a checkpoint")),
            "{sentence}"
        );
    }
    for (folder, words) in [
        ("model", "--model model"),
        ("model/vqvae", "--vqvae model/vqvae"),
        (".", "is a folder; give the file"),
    ] {
        let sentence = workplace.fail(&format!("convert {folder} --to ../other"));
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn an_image_that_is_not_there_is_said_to_be_missing() {
    let workplace = Workplace::new();
    for arguments in [
        "sample --model model --steps 2 --from none.png",
        "inpaint none.png --mask none.png --model model --steps 2",
        "invert none.png --model model --steps 2",
    ] {
        let sentence = workplace.fail(arguments);
        assert!(sentence.contains("there is no file none.png"), "{sentence}");
    }
}
