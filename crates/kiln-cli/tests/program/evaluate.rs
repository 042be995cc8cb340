//! `kiln evaluate`, on the compiled-in model.

use std::fs;

use serde_json::Value;

use crate::{Workplace, program, training};

fn figure(row: &Value, name: &str) -> f64 {
    let value = row["figures"][name]["value"].as_f64();
    value.unwrap_or_else(|| panic!("{name} is missing in {row}"))
}

#[test]
fn every_combination_is_measured_between_landmarks_and_written_down() {
    let workplace = Workplace::new();
    let line = "evaluate --steps 1/2 --samplers ddim,heun --eta 0,1 --count 65 --real 200 --nearest --json";
    let outcome = workplace.json(line);
    let rows = outcome["rows"].as_array().unwrap();
    // Two landmarks; DDIM with both etas and Heun's method once, each with both numbers of steps.
    assert_eq!(rows.len(), 2 + 3 * 2);
    let calls: Vec<_> = (rows.iter())
        .filter_map(|row| row["sampling"]["evaluations"].as_u64())
        .collect();
    assert_eq!(calls, [1, 2, 1, 2, 1, 3]);
    assert!(rows.iter().all(|row| row["count"] == 65));

    let (real, blurred, one_step) = (&rows[0], &rows[1], &rows[2]);
    assert!(figure(real, "confident") > 0.9);
    assert!(figure(real, "Frechet") < figure(blurred, "Frechet"));
    assert!(figure(blurred, "Frechet") < figure(one_step, "Frechet"));
    assert!((0.0..=1.0).contains(&figure(one_step, "near training")));

    let table = fs::read_to_string(workplace.path("evaluation/table.md")).unwrap();
    assert!(
        table.contains("seed 0") && table.contains("| ddim eta 1, "),
        "{table}"
    );
    for name in ["results.csv", "results.json", "quality.svg"] {
        assert!(
            workplace.path(&format!("evaluation/{name}")).is_file(),
            "{name}"
        );
    }
    // The features of real images are kept, and give the same figures again.
    let kept = fs::read_dir(workplace.path("cache/kiln/features")).unwrap();
    assert_eq!(kept.count(), 2);
    let again = workplace.json(line);
    assert_eq!(again["rows"][0], outcome["rows"][0]);
}

#[test]
fn lists_of_timesteps_are_compared() {
    let workplace = Workplace::new();
    let listed = "--timesteps 999,749,499,249/999,500";
    let outcome = workplace.json(&format!("evaluate {listed} --count 65 --real 200 --json"));
    let rows = &outcome["rows"].as_array().unwrap()[2..];
    let timesteps: Vec<_> = (rows.iter())
        .map(|row| row["sampling"]["timesteps"].to_string())
        .collect();
    assert_eq!(timesteps, ["[999.0,749.0,499.0,249.0]", "[999.0,500.0]"]);
    // The first list is how the model draws by itself.
    let own = workplace.json("evaluate --steps 4 --count 65 --real 200 --json");
    assert_eq!(rows[0]["figures"], own["rows"][2]["figures"]);
}

#[test]
fn the_first_stage_is_measured_by_what_it_gives_back() {
    let workplace = Workplace::new();
    let outcome = workplace.json("evaluate --first-stage --count 100 --json");
    let row = &outcome["rows"][0];
    assert!((15.0..40.0).contains(&figure(row, "PSNR")));
    assert!((0.5..1.0).contains(&figure(row, "SSIM")));
    assert!(figure(row, "codes in use") > 10.0 && figure(row, "Frechet") > 0.0);
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_sentence() {
    let workplace = Workplace::new();
    for (line, words) in [
        ("evaluate --model model --steps 5", "--config FILE"),
        (
            "evaluate --samplers heun,ddpm --eta 0.5",
            "--eta belongs to",
        ),
        ("evaluate --feature-size 75", "--features 2048"),
        (
            "evaluate --features 2048 --classifier no.safetensors",
            "--features digits",
        ),
        ("evaluate --steps 2000", "2000"),
        (
            "evaluate --timesteps 999,499/1000,499",
            "from 999 down to 0",
        ),
        ("evaluate --class 3", "without class labels"),
        (
            "evaluate --features 2048 --feature-weights no.pth",
            "no.pth",
        ),
        ("evaluate --classifier no.safetensors", "no.safetensors"),
    ] {
        let sentence = workplace.fail(line);
        assert!(sentence.contains(words), "{line}: {sentence}");
    }
    let said = workplace.refuse("evaluate --eta 0,2");
    assert!(said.contains("from 0 to 1"), "{said}");
}

#[test]
fn a_damaged_cache_is_made_again_and_one_that_cannot_be_written_is_done_without() {
    let workplace = Workplace::new();
    let line = "evaluate --steps 1 --count 65 --real 65 --json";
    let rows = |output: &[u8]| {
        let mut outcome: Value = serde_json::from_slice(output).expect("JSON");
        for row in outcome["rows"].as_array_mut().unwrap() {
            row["seconds"] = Value::Null;
        }
        outcome["rows"].take()
    };
    let expected = rows(workplace.succeed(line).as_bytes());
    for entry in fs::read_dir(workplace.path("cache/kiln/features")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40; // the exponent of the last number
        fs::write(&path, bytes).unwrap();
    }
    let repaired = workplace.run(line);
    let warning = String::from_utf8_lossy(&repaired.stderr);
    assert_eq!(warning.matches("is damaged").count(), 2, "{warning}");
    assert_eq!(rows(&repaired.stdout), expected);
    workplace.succeed(line);

    fs::write(workplace.path("file"), "").unwrap();
    let mut command = program(&workplace.path("."), line);
    let output = command
        .env("XDG_CACHE_HOME", workplace.path("file"))
        .output()
        .unwrap();
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && warning.contains("are not stored"),
        "{warning}"
    );
    assert!(!warning.contains('\u{1b}'), "{warning}");
    assert_eq!(rows(&output.stdout), expected);
}

#[test]
fn too_few_images_are_counted_with_what_to_do() {
    let workplace = training::workplace();
    fs::write(workplace.path("pixels.toml"), training::PIXELS).unwrap();
    for line in ["--data photos", "--config experiment.toml"] {
        let sentence = workplace.fail(&format!("evaluate --model model --steps 1 {line}"));
        assert!(
            sentence.contains("only 2 of the 24 images of photos are held out")
                && sentence.contains("at least 65")
                && sentence.contains("use 130 images or more"),
            "{sentence}"
        );
    }
    let pixels = "train-diffusion --config pixels.toml --set stage_2.evaluation.features=\"768\"";
    let sentence = workplace.fail(&format!("{pixels} --set data.validation_fraction=0.01"));
    assert!(
        sentence.contains("has only 1") && sentence.contains("at least 2"),
        "{sentence}"
    );
}

#[test]
fn a_known_data_set_needs_no_config() {
    let workplace = training::workplace();
    let folder = workplace.path("cifar-10-batches-bin");
    fs::create_dir(&folder).unwrap();
    let train = (1..=5).map(|batch| format!("data_batch_{batch}.bin"));
    for name in train.chain(["test_batch.bin".into()]) {
        fs::write(folder.join(name), [0; 2 * 3_073]).unwrap();
    }
    let sentence = workplace.fail("evaluate --model model --data cifar-10-batches-bin");
    assert!(
        sentence.contains("only 2 of the 12 images of cifar-10"),
        "{sentence}"
    );
}
