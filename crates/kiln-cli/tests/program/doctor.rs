//! `kiln doctor`.

use std::fs;

use serde_json::Value;

use crate::{Workplace, tiny, training};

const WEIGHTS: &str = "model/unet/diffusion_pytorch_model.safetensors";

/// The stdout of `kiln doctor`, its exit code, and its stderr.
fn examine(workplace: &Workplace, arguments: &str) -> (Value, Option<i32>, String) {
    let output = workplace.run(&format!("doctor {arguments} --json"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let outcome = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("doctor {arguments}: {error}, {stderr}"));
    (outcome, output.status.code(), stderr)
}

/// The severities that a check found.
fn severities<'a>(outcome: &'a Value, check: &str) -> Vec<&'a str> {
    let examinations = outcome["examinations"].as_array().unwrap();
    let examined = (examinations.iter())
        .find(|examined| examined["check"] == check)
        .unwrap();
    let findings = examined["findings"].as_array().unwrap().iter();
    findings
        .map(|found| found["severity"].as_str().unwrap())
        .collect()
}

#[test]
fn the_built_in_model_gets_a_clean_bill() {
    let workplace = Workplace::new();
    let said = workplace.succeed("doctor");
    assert!(said.contains("found nothing wrong"), "{said}");
    assert!(
        !said.contains("WARNING") && !said.contains("BROKEN"),
        "{said}"
    );
}

#[test]
fn warnings_do_not_fail() {
    let workplace = Workplace::new();
    let (outcome, code, stderr) = examine(&workplace, "model");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(
        (&outcome["healthy"], &outcome["broken"]),
        (&false.into(), &false.into())
    );
    assert_eq!(severities(&outcome, "terminal SNR"), ["warning"]);
    assert_eq!(severities(&outcome, "weights"), [""; 0]);
    let said = workplace.succeed("doctor model/vqvae");
    assert!(
        said.contains("weights") && said.contains("not examined"),
        "{said}"
    );
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let workplace = Workplace::new();
    let mut weights = fs::read(workplace.path(WEIGHTS)).unwrap();
    let last = weights.len() - 4;
    weights[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(workplace.path(WEIGHTS), weights).unwrap();
    let (outcome, code, stderr) = examine(&workplace, "model");
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: model is broken"), "{stderr}");
    assert_eq!(severities(&outcome, "weights"), ["broken"]);
    let what = outcome["examinations"][0]["findings"][0]["what"].as_str();
    // The last tensor in the file.
    assert!(what.unwrap().contains("up_blocks.1.resnets.1"), "{what:?}");
}

#[test]
fn a_model_that_was_shared_is_a_model_and_its_damage_is_found() {
    let workplace = Workplace::new();
    workplace.succeed("push model ada/digits --dry-run shared");
    fs::write(
        workplace.path("shared/config.toml"),
        "# Written by kiln 0.1.0.\n",
    )
    .unwrap();
    let (outcome, code, _) = examine(&workplace, "shared");
    assert_eq!(code, Some(0));
    // Additional files do no harm.
    assert_eq!(severities(&outcome, "files"), [""; 0]);
    assert_eq!(severities(&outcome, "terminal SNR"), ["warning"]);

    fs::remove_file(workplace.path("shared/README.md")).unwrap();
    let (outcome, code, _) = examine(&workplace, "shared");
    assert_eq!(code, Some(0));
    assert_eq!(severities(&outcome, "files"), ["warning"]);

    // First each of them, and then all together.
    let scheduler = "shared/scheduler/scheduler_config.json";
    let weights = "shared/unet/diffusion_pytorch_model.safetensors";
    for (file, check) in [(weights, "weights"), (scheduler, "weights")] {
        fs::write(workplace.path(file), "{").unwrap();
        let (outcome, code, _) = examine(&workplace, "shared");
        assert_eq!(code, Some(1), "{file}");
        assert_eq!(severities(&outcome, check), ["broken"], "{file}");
        assert!(severities(&outcome, "files").contains(&"warning"), "{file}");
    }
    for file in [weights, scheduler, "shared/model_index.json"] {
        fs::remove_file(workplace.path(file)).unwrap();
        let (outcome, code, _) = examine(&workplace, "shared");
        assert_eq!(code, Some(1), "{file}");
        let name = file.strip_prefix("shared/").unwrap();
        assert!(
            outcome
                .to_string()
                .contains(&format!("\\\"{name}\\\" is missing"))
        );
    }
}

#[test]
fn a_run_with_a_damaged_table_of_metrics_is_told_so_once() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae --out run");
    let metrics = workplace.path("run/vqvae/metrics.csv");
    let whole = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, whole.trim_end()).unwrap();
    let (outcome, code, stderr) = examine(&workplace, "run");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(severities(&outcome, "validation gap"), ["warning"]);
    assert_eq!(outcome["healthy"], false);
    assert_eq!(
        outcome
            .to_string()
            .matches("its last line is cut off")
            .count(),
        1
    );
    // Nor is it written over.
    let more = "train-vqvae --out run --resume --set stage_1.training.steps=6";
    let sentence = workplace.fail(more);
    assert!(
        sentence.contains("metrics.csv is damaged, its last line is cut off"),
        "{sentence}"
    );
    assert_eq!(fs::read_to_string(&metrics).unwrap(), whole.trim_end());
}

#[test]
fn a_run_is_examined_with_its_own_latents_and_metrics() {
    let workplace = training::workplace();
    for stage in ["train-vqvae", "train-latent-diffusion"] {
        training::train(&workplace, stage);
    }
    let (outcome, code, _) = examine(&workplace, "runs/experiment");
    let examinations = outcome["examinations"].as_array().unwrap();
    for examined in examinations {
        // The run has codes, and was trained without an average, a discriminator and a teacher.
        let check = examined["check"].as_str().unwrap();
        let others = ["posterior", "moving average", "discriminator", "student"];
        let is_there = !others.contains(&check);
        assert_eq!(
            examined.get("not_examined").is_none(),
            is_there,
            "{examined}"
        );
    }
    // Four steps teach nothing.
    assert_eq!(severities(&outcome, "loss by timestep"), ["broken"]);
    assert_eq!(severities(&outcome, "terminal SNR"), [""; 0]);
    assert_eq!(code, Some(1));

    // The model alone needs images for the same checks.
    let (outcome, ..) = examine(&workplace, "runs/experiment/model --data photos");
    assert_eq!(severities(&outcome, "loss by timestep"), ["broken"]);

    fs::write(
        workplace.path("runs/experiment/vqvae/model/config.json"),
        "{",
    )
    .unwrap();
    fs::remove_dir_all(workplace.path("runs/experiment/model")).unwrap();
    let (outcome, ..) = examine(&workplace, "runs/experiment");
    assert_eq!(severities(&outcome, "weights"), ["broken"]);
}

#[test]
fn a_model_with_classes_is_asked_without_one() {
    let workplace = training::workplace();
    let model = tiny::conditional();
    model
        .save(&workplace.path("shapes"), Default::default())
        .unwrap();
    let (outcome, ..) = examine(&workplace, "shapes --data photos");
    // Random weights predict nothing.
    assert_eq!(severities(&outcome, "loss by timestep"), ["broken"]);
    assert_eq!(severities(&outcome, "weights"), [""; 0]);
}

#[test]
fn what_is_no_patient_is_refused_in_a_sentence() {
    let workplace = Workplace::new();
    fs::create_dir(workplace.path("empty")).unwrap();
    for (arguments, words) in [
        ("nowhere", "neither a model nor a run"),
        ("empty", "neither a model nor a run"),
        ("model --data nowhere", "nowhere"),
        ("model --config nowhere.toml", "nowhere.toml"),
    ] {
        let sentence = workplace.fail(&format!("doctor {arguments}"));
        assert!(sentence.contains(words), "doctor {arguments}: {sentence}");
    }
}

#[test]
fn a_lost_discriminator_is_found() {
    let workplace = training::workplace();
    let adversarial =
        "--set stage_1.adversarial={weight=0.1,start=1,discriminator={channels=8,layers=1}}";
    training::train(&workplace, &format!("train-vqvae --out run {adversarial}"));
    let file = workplace.path("run/vqvae/discriminator.safetensors");
    let whole = fs::read(&file).unwrap();
    let said = |file_now: Option<&[u8]>| {
        let _ = fs::remove_file(&file);
        if let Some(bytes) = file_now {
            fs::write(&file, bytes).unwrap();
        }
        workplace.succeed("doctor run")
    };
    assert!(!said(Some(&whole)).contains("cannot be used"));
    for damaged in [None, Some(&whole[..100]), Some(&[0; 3 << 20][..])] {
        let said = said(damaged);
        assert!(
            said.contains("discriminator.safetensors cannot be used"),
            "{said}"
        );
    }
}

#[test]
fn a_damaged_checkpoint_is_found() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae --out run");
    let checkpoint = workplace.path("run/vqvae/checkpoints/step-0000004");
    let part = (fs::read_dir(&checkpoint).unwrap())
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_none_or(|kind| kind != "json"))
        .unwrap();
    let bytes = fs::read(&part).unwrap();
    fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    let said = workplace.succeed("doctor run");
    assert!(
        said.contains("step-0000004 is damaged: "),
        "{}: {said}",
        part.display()
    );
}
