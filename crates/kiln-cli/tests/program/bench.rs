//! `kiln bench`.

use std::fs;

use serde_json::Value;

use crate::{
    Workplace,
    training::{EXPERIMENT, PIXELS},
};

const WORKS: [&str; 4] = ["stage-1", "stage-2", "sampling", "decoding"];

/// A workplace with `experiment.toml`, whose data set does not exist.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    fs::write(workplace.path("experiment.toml"), EXPERIMENT).unwrap();
    workplace
}

#[test]
fn every_work_is_in_the_table_and_nothing_is_written() {
    let workplace = workplace();
    let files = || fs::read_dir(workplace.path("")).unwrap().count();
    let before = files();
    let table = workplace
        .succeed("bench --config experiment.toml --repeats 2 --steps 3 --count 5 --batch-size 2");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("kiln ") && lines[0].contains("threads used: "));
    assert!(
        lines[1].starts_with("experiment.toml, median of 2"),
        "{table}"
    );
    let bf16 = kiln_kernels::bf16_instructions();
    assert!(
        lines[0].ends_with(&bf16.map_or("no fast bf16".into(), |name| format!("bf16 by {name}"))),
        "{table}"
    );
    let drawn = if bf16.is_some() { "bf16" } else { "f32" };
    for (line, (name, precision, images)) in lines[4..].iter().zip([
        ("stage 1, training step", "f32", "2"),
        ("stage 2, training step", "f32", "2"),
        ("sampling, 3 steps", drawn, "5"),
        ("decoding", drawn, "5"),
    ]) {
        let rest = line.strip_prefix(name).expect(&table);
        let columns: Vec<&str> = rest.split_whitespace().collect();
        assert_eq!(columns[..3], ["cpu", precision, images], "{table}");
        for figure in [columns[3], columns[7]] {
            assert!(figure.parse::<f64>().unwrap() > 0.0, "{table}");
        }
    }
    assert_eq!((lines.len(), files()), (8, before), "{table}");
}

#[test]
fn json_has_every_timing_and_the_machine() {
    let outcome = workplace().json("bench --config experiment.toml --repeats 3 --steps 2 --json");
    assert_eq!(outcome["version"], env!("CARGO_PKG_VERSION"));
    assert!(outcome["machine"]["threads"].as_u64().unwrap() > 0);
    assert!(!outcome["machine"]["processor"].as_str().unwrap().is_empty());
    let works = outcome["works"].as_array().unwrap();
    let names: Vec<&Value> = works.iter().map(|work| &work["work"]).collect();
    assert_eq!(names, WORKS);
    for (work, images) in works.iter().zip([4, 4, 64, 64]) {
        assert_eq!(work["images"], images, "{work}");
        let number = |key: &str| work[key].as_f64().unwrap();
        assert!(number("min") > 0.0 && number("images_per_second") > 0.0);
        assert!(number("min") <= number("median") && number("median") <= number("max"));
        let timings = work["milliseconds"].as_array().unwrap();
        assert_eq!(timings.len(), 3);
        assert!(timings.contains(&work["median"]), "{work}");
        if cfg!(target_os = "linux") {
            assert!(work["peak_memory"].as_u64().unwrap() > 1 << 20, "{work}");
        }
    }
}

#[test]
fn pixel_space_has_no_first_stage_to_measure() {
    let workplace = workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let bench = "bench --config experiment.toml --repeats 1 --steps 2 --count 2";
    let outcome = workplace.json(&format!("{bench} --json"));
    let works = outcome["works"].as_array().unwrap();
    let names: Vec<&Value> = works.iter().map(|work| &work["work"]).collect();
    assert_eq!(names, ["stage-2", "sampling"]);
    for work in ["stage-1", "decoding"] {
        let sentence = workplace.fail(&format!("{bench} --work {work}"));
        assert!(sentence.contains("pixel space"), "{sentence}");
    }
}

#[test]
fn several_devices_share_training_steps_alone() {
    let text = workplace().succeed(
        "bench --config experiment.toml --devices cpu:1/cpu:2 --repeats 1 --steps 2 --count 2 --json",
    );
    let outcome: Value = serde_json::from_str(&text).unwrap();
    let works = outcome["works"].as_array().unwrap();
    let of = |work: &Value| {
        let text = |key: &str| work[key].as_str().unwrap().to_owned();
        (
            text("work"),
            text("devices"),
            work["images"].as_u64().unwrap(),
        )
    };
    let [first, second, third, fourth] = WORKS.map(str::to_owned);
    let (one, two) = ("cpu:1".to_owned(), "cpu:2".to_owned());
    let expected = [
        (first.clone(), one.clone(), 4),
        (first, two.clone(), 8),
        (second.clone(), one.clone(), 4),
        (second, two, 8),
        (third, one.clone(), 2),
        (fourth, one, 2),
    ];
    assert_eq!(works.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!(works[0]["speed_up"], 1.0);
    // Read from the text, because serde_json may be one bit off.
    let number = |key: &str, work: usize| -> f64 {
        let (_, rest) = text
            .split(key)
            .nth(work + 1)
            .unwrap()
            .split_once(':')
            .unwrap();
        let end = rest.find([',', '}']).unwrap();
        rest[..end].trim().parse().unwrap()
    };
    let speed = |work| number("\"images_per_second\"", work);
    assert_eq!(number("\"speed_up\"", 1), speed(1) / speed(0));
}

#[test]
fn works_are_chosen_and_keys_overridden() {
    let workplace = workplace();
    let outcome = workplace.json(
        "bench --config experiment.toml --work decoding,stage-1 --repeats 1 --count 1 --set stage_1.training.batch_size=3 --json",
    );
    let works = outcome["works"].as_array().unwrap();
    let of = |index: usize| (&works[index]["work"], &works[index]["images"]);
    assert_eq!(of(0), (&"decoding".into(), &1.into()));
    assert_eq!(of(1), (&"stage-1".into(), &3.into()));
    assert_eq!(works.len(), 2);
}

#[test]
fn what_cannot_be_measured_is_a_sentence() {
    let workplace = workplace();
    for (name, config) in [
        ("student", "mnist-few-steps"),
        ("classifier", "mnist-classifier"),
    ] {
        let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        fs::copy(
            format!("{configs}/{config}.toml"),
            workplace.path(&format!("{name}.toml")),
        )
        .unwrap();
    }
    for (arguments, words) in [
        ("--config nowhere.toml", "nowhere.toml"),
        (
            "--config experiment.toml --set unet.in_channels=7",
            "unet.in_channels",
        ),
        (
            "--config experiment.toml --work sampling --devices cpu/cpu:2",
            "only training uses several devices: give one device instead of `cpu:2` for sampling, 50 steps",
        ),
        ("--config student.toml", "measure the config of its teacher"),
        (
            "--config classifier.toml",
            "only diffusion models are measured",
        ),
        (
            "--config experiment.toml --devices cpu/",
            "`` is not a device",
        ),
        (
            "--config experiment.toml --devices gpu",
            "`gpu` is not a device",
        ),
        (
            "--config experiment.toml --work sampling --steps 1001",
            "cannot measure sampling: ",
        ),
    ] {
        let sentence = workplace.fail(&format!("bench {arguments}"));
        assert!(
            sentence.contains(words),
            "kiln bench {arguments}: {sentence}"
        );
    }
    for (arguments, words) in [
        ("bench", "--config"),
        ("bench --config experiment.toml --work stage-3", "stage-1"),
        ("bench --config experiment.toml --repeats 0", "--repeats"),
        (
            "bench --config experiment.toml --batch-size 0",
            "--batch-size",
        ),
    ] {
        let output = workplace.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "kiln {arguments}: {stderr}");
        assert!(stderr.contains(words), "kiln {arguments}: {stderr}");
    }
}

#[test]
fn networks_with_classes_are_measured_too() {
    let conditional =
        "bench --config experiment.toml --set unet.num_class_embeds=3 --repeats 1 --steps 2 --json";
    let outcome = workplace().json(conditional);
    let works = outcome["works"].as_array().unwrap();
    assert_eq!(works.len(), WORKS.len(), "{outcome}");
}
