//! `vqvae.quantizer`: from the training of the first stage to pictures.

use std::fs;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::training;

/// The setting, its codes, and the quantizer's part of the file.
const CHOICES: [(&str, u64, &[&str]); 3] = [
    ("vqvae.quantizer={fsq={levels=[5,4]}}", 20, &[]),
    (
        "vqvae.quantizer=simvq",
        8,
        &["quantize.code_transform.weight", "quantize.frozen_codebook"],
    ),
    (
        "vqvae.quantizer={residual={tables=2}}",
        16,
        &[
            "quantize.tables.0.embedding.weight",
            "quantize.tables.1.embedding.weight",
        ],
    ),
];

#[test]
fn one_setting_is_enough_from_the_first_stage_to_pictures() {
    let workplace = training::workplace();
    for (index, (set, codes, keys)) in CHOICES.into_iter().enumerate() {
        let run = format!("run-{index}");
        let (out, set) = (format!("--out {run}"), format!("--set {set}"));
        let report = training::train(&workplace, &format!("train-vqvae {out} {set}"));
        assert_eq!(report["steps"], 4, "{set}");
        training::train(&workplace, &format!("train-latent-diffusion {out}"));

        // The settings of the run need not be repeated.
        let longer = "--resume --set stage_1.training.steps=6";
        let report = training::train(&workplace, &format!("train-vqvae {out} {longer}"));
        assert_eq!(report["steps"], 6, "{set}");

        let model = format!("{run}/model");
        let file = format!("{model}/vqvae/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(workplace.path(&file)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut found: Vec<_> = (file.names().into_iter())
            .filter(|name| name.starts_with("quantize."))
            .collect();
        found.sort_unstable();
        assert_eq!(found, keys, "{set}");

        let drawn = workplace.draw(&format!("--model {model} --count 4 --out {run}/drawn"));
        let again = workplace.draw(&format!(
            "--model {model} --count 4 --batch 1 --out {run}/again"
        ));
        assert_eq!(drawn, again, "{set}");
        let outcome = workplace.json(&format!(
            "reconstruct --model {model} --data photos --out {run}/back --json"
        ));
        assert_eq!(outcome["codes"], codes, "{set}");
        assert!(outcome["codes_in_use"].as_u64().unwrap() >= 1, "{set}");
        let info = workplace.succeed(&format!("model info {model}"));
        assert!(info.contains("loads in kiln alone"), "{info}");
        let info = workplace.json(&format!("model info {model} --json"));
        assert_eq!(info["vqvae"]["codes"], codes, "{set}");
        assert_ne!(info["vqvae"]["quantizer"], json!(null), "{set}");

        // A network of four steps draws badly, but its codes can be counted.
        let report = workplace.run(&format!("doctor {run} --json")).stdout;
        let report: Value = serde_json::from_slice(&report).unwrap();
        let mut examined = report["examinations"].as_array().unwrap().iter();
        let codebook = examined.find(|one| one["check"] == "codebook").unwrap();
        assert_eq!(codebook["not_examined"], json!(null), "{set}: {codebook}");
    }
}

#[test]
fn keys_that_mean_nothing_are_named() {
    let workplace = training::workplace();
    let train = "train-vqvae --config experiment.toml --out run";
    let sentence = workplace.fail(&format!(
        "{train} --set vqvae.quantizer=simvq --set codebook.decay=0.9"
    ));
    assert!(
        sentence.contains("`codebook.decay` means nothing"),
        "{sentence}"
    );
    assert!(!workplace.path("run").exists());
    let sentence = workplace.fail(&format!("{train} --set vqvae.quantizer=fsq"));
    assert!(sentence.contains("levels = [8, 5, 5, 5]"), "{sentence}");

    let with_codebook = training::EXPERIMENT.to_owned() + "[codebook]\ndecay = 0.9\n";
    fs::write(workplace.path("experiment.toml"), with_codebook).unwrap();
    let output = workplace.run(&format!("{train} --set vqvae.quantizer=simvq"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("left out: codebook.decay"), "{said}");
    let written = fs::read_to_string(workplace.path("run/config.toml")).unwrap();
    assert!(!written.contains("decay = 0.9"), "{written}");

    // Nor do weights of another quantizer serve as initial ones.
    let sentence = workplace
        .fail("train-vqvae --config experiment.toml --out other --initial-weights run/vqvae/model");
    assert!(
        sentence.contains("vqvae.quantizer='\"simvq\"'"),
        "{sentence}"
    );
}

#[test]
fn the_page_of_a_model_says_that_only_kiln_loads_it() {
    let workplace = training::workplace();
    training::train(
        &workplace,
        "train-vqvae --out run --set vqvae.quantizer=simvq",
    );
    workplace.succeed("push run/vqvae/model ada/simvq --dry-run page");
    let page = fs::read_to_string(workplace.path("page/README.md")).unwrap();
    assert!(page.contains("It loads in kiln alone"), "{page}");
    assert!(!page.contains("from_pretrained"), "{page}");
    let info = workplace.json("model info page --json");
    assert_eq!(info["vqvae"]["quantizer"], "simvq");
}
