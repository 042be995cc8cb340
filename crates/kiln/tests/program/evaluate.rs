//! `kiln evaluate`, on the model that is compiled in.

use std::fs;

use serde_json::Value;

use crate::Workplace;

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
    // The model's guide is asked as often as the model.
    assert_eq!(calls, [1, 2, 1, 2, 1, 3].map(|calls| 2 * calls));
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
    // What was seen in real images is kept, and gives the same figures again.
    let kept = fs::read_dir(workplace.path("cache/kiln/features")).unwrap();
    assert_eq!(kept.count(), 2);
    let again = workplace.json(line);
    assert_eq!(again["rows"][0], outcome["rows"][0]);
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
        ("evaluate --eta 2", "eta"),
        ("evaluate --steps 2000", "2000"),
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
}
