//! `kiln reconstruct`.

use std::fs;

use image::{GrayImage, Luma};

use crate::{Workplace, gray, program, tiny, training};

/// Five pictures of different sizes, each with a gradient.
fn photos(workplace: &Workplace) {
    fs::create_dir(workplace.path("photos")).unwrap();
    for number in 0..5u32 {
        let picture = GrayImage::from_fn(8 + number, 8 + number, |x, y| {
            Luma([(x * 20 + y * number * 5) as u8])
        });
        picture
            .save(workplace.path(&format!("photos/{number}.png")))
            .unwrap();
    }
}

#[test]
fn a_folder_of_images_comes_back_under_its_originals() {
    let workplace = Workplace::new();
    photos(&workplace);
    for model in ["model", "model/vqvae"] {
        let outcome = workplace.json(&format!(
            "reconstruct --model {model} --data photos --out {model}-out --json"
        ));
        assert_eq!(
            (&outcome["count"], &outcome["codes"]),
            (&5.into(), &tiny::CODES.into())
        );
        let psnr = outcome["psnr"].as_f64().unwrap();
        assert!((0.0..60.0).contains(&psnr), "{psnr} dB");
        let codes = outcome["codes_in_use"].as_u64().unwrap() as f64;
        let perplexity = outcome["perplexity"].as_f64().unwrap();
        assert!(
            codes >= 1.0 && (1.0..=codes + 1e-6).contains(&perplexity),
            "{perplexity} of {codes}"
        );
        // A folder has no padding to crop: 8x8 pixels, five in a row, originals over reconstructions.
        let picture = gray(&workplace.path(outcome["picture"].as_str().unwrap()));
        assert_eq!(picture.dimensions(), (5 * 10 + 2, 2 * 10 + 2));
    }
}

#[test]
fn words_name_the_quality() {
    let workplace = Workplace::new();
    photos(&workplace);
    let said = workplace.succeed("reconstruct --model model --data photos --count 2 --batch 1");
    assert!(
        said.contains("PSNR") && said.contains("2 images of photos") && said.contains("perplexity"),
        "{said}"
    );
}

#[test]
fn a_model_of_a_run_is_shown_what_the_run_holds_out() {
    let workplace = training::workplace();
    for stage in ["train-vqvae", "train-latent-diffusion"] {
        training::train(&workplace, &format!("{stage} --out run"));
    }
    fs::create_dir(workplace.path("elsewhere")).unwrap();
    let measured = |folder: &str, model: &str| {
        let arguments = format!("reconstruct --json --model {model}");
        let output = program(&workplace.path(folder), &arguments)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (said, outcome)
    };
    for (folder, model) in [
        (".", "run"),
        (".", "run/model"),
        (".", "run/vqvae/model"),
        (".", "run/diffusion/checkpoints/step-0000004"),
        ("run/model", "."),
        // The path in the config does not exist from there.
        ("elsewhere", "../run/model"),
    ] {
        let (said, outcome) = measured(folder, model);
        assert!(
            said.contains("photos holds out") && said.contains("config.toml"),
            "{model}: {said}"
        );
        assert_eq!(
            (&outcome["count"], &outcome["data"]),
            (&2.into(), &"photos".into())
        );
    }
    let (said, _) = measured(".", "run/vqvae/checkpoints/step-0000004");
    assert!(
        said.contains("stage 1") && said.contains("run/vqvae/model"),
        "{said}"
    );
    let (said, outcome) = measured(".", "run --data photos");
    assert_eq!((said.as_str(), &outcome["count"]), ("", &24.into()));

    fs::rename(workplace.path("photos"), workplace.path("moved")).unwrap();
    let (said, _) = measured(".", "run");
    assert!(
        said.contains("--config run/config.toml --data PATH"),
        "{said}"
    );
    let (said, outcome) = measured(".", "run --config run/config.toml --data moved");
    assert_eq!((said.as_str(), &outcome["count"]), ("", &2.into()));
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let workplace = Workplace::new();
    assert!(
        workplace
            .fail("reconstruct --model model")
            .contains("--data FOLDER")
    );
    assert!(
        workplace
            .fail("reconstruct --model model --data nowhere")
            .contains("nowhere")
    );
    fs::create_dir(workplace.path("empty")).unwrap();
    assert!(
        workplace
            .fail("reconstruct --model model --data empty")
            .contains("empty")
    );
    assert!(
        workplace
            .fail("reconstruct --model empty --data empty")
            .contains("VQ-VAE")
    );
}
