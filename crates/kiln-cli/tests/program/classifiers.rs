//! `kiln train-classifier` on a user's own images, and what its classifier is good for.

use std::fs;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::Workplace;

const CONFIG: &str = r#"
[data]
dataset = "folder"
path = "things"
size = 12
channels = 3
validation_fraction = 0.25
horizontal_flip = true

[classifier]
block_out_channels = [8, 8]
norm_num_groups = 4

[augmentation]
shift = 1.0
rotation = 5.0
scale = 0.05
colour = 0.1
cutout = 0.25

[training]
steps = 30
batch_size = 8
learning_rate = 1e-2
checkpoint_every = 15
"#;

/// `things/` has a folder of reddish and one of bluish images, of various sizes.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    for (class, bright) in [("red", 0), ("blue", 2)] {
        let folder = workplace.path("things").join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..16_u32 {
            let image = RgbImage::from_fn(12 + number % 3, 14, |x, y| {
                let mut pixel = [40, 60, 40];
                pixel[bright] = 150 + ((7 * x + 5 * y + number) % 60) as u8;
                Rgb(pixel)
            });
            image.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    fs::write(workplace.path("things.toml"), CONFIG).unwrap();
    workplace
}

/// Trains, and returns the report.
fn train(workplace: &Workplace, arguments: &str) -> Value {
    let output = workplace.run(&format!("train-classifier {arguments} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn weights(workplace: &Workplace, run: &str) -> Vec<u8> {
    fs::read(workplace.path(run).join("model.safetensors")).unwrap()
}

/// The last value of a column in a run's metrics.
fn last(workplace: &Workplace, run: &str, column: &str) -> f64 {
    let metrics = fs::read_to_string(workplace.path(run).join("metrics.csv")).unwrap();
    let mut lines = metrics
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>());
    let place = lines
        .next()
        .unwrap()
        .iter()
        .position(|&name| name == column);
    lines.next_back().unwrap()[place.expect("a column")]
        .parse()
        .unwrap()
}

#[test]
fn a_folder_of_classes_is_learnt_and_goes_on_exactly() {
    let workplace = workplace();
    let report = train(&workplace, "--config things.toml --out run");
    assert_eq!(report["steps"], 30);
    assert_eq!(last(&workplace, "run", "accuracy/valid"), 100.0);
    let loss = last(&workplace, "run", "loss/valid");

    // The state after a kill at the first checkpoint.
    let whole = weights(&workplace, "run");
    fs::remove_dir_all(workplace.path("run/checkpoints/step-0000030")).unwrap();
    fs::remove_file(workplace.path("run/model.safetensors")).unwrap();
    let report = train(&workplace, "--out run --resume");
    assert_eq!(
        (&report["steps"], &report["new_steps"]),
        (&30.into(), &15.into())
    );
    assert!(weights(&workplace, "run") == whole, "the weights differ");
    let sentence =
        workplace.fail("train-classifier --out run --resume --set classifier.layers_per_block=2");
    assert!(
        sentence.contains("`classifier.layers_per_block`"),
        "{sentence}"
    );
    assert_eq!(
        train(&workplace, "--out run --resume --set training.steps=32")["steps"],
        32
    );

    // Two devices share the batch.
    let shared = "--config things.toml --set training.batch_size=4 --devices cpu:2 --out shared";
    train(&workplace, shared);
    let difference = loss - last(&workplace, "shared", "loss/valid");
    assert!(difference.abs() < 1e-3 * loss, "{difference} of {loss}");
}

#[test]
fn its_features_compare_reconstructions_and_the_doctor_examines_it() {
    let workplace = workplace();
    train(
        &workplace,
        "--config things.toml --out run --set training.steps=15",
    );
    let measure = "evaluate --first-stage --count 70 --real 70 --perceptual classifier --json \
                   --perceptual-weights";
    let outcome = workplace.json(&format!("{measure} run/model.safetensors"));
    let distance = &outcome["rows"][0]["figures"]["classifier distance"]["value"];
    assert!(
        distance.as_f64().is_some_and(|distance| distance > 0.0),
        "{outcome}"
    );
    assert!(
        outcome["judge"]
            .as_str()
            .unwrap()
            .contains("kiln's classifier"),
        "{outcome}"
    );
    assert!(workplace.path("evaluation/reconstructions.png").is_file());

    let said = workplace.succeed("doctor run");
    assert!(said.contains("weights            ok"), "{said}");
    let whole = weights(&workplace, "run");
    fs::write(
        workplace.path("run/model.safetensors"),
        &whole[..whole.len() - 2],
    )
    .unwrap();
    let output = workplace.run("doctor run");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("BROKEN") && said.contains("model.safetensors"),
        "{said}"
    );
    let sentence = workplace.fail(&format!("{measure} run/model.safetensors"));
    assert!(
        sentence.contains("does not hold an image classifier"),
        "{sentence}"
    );
}

#[test]
fn what_cannot_be_learnt_or_compared_is_refused_in_a_sentence() {
    let workplace = workplace();
    fs::create_dir_all(workplace.path("flat")).unwrap();
    for number in 0..4 {
        let from = workplace.path(&format!("things/red/{number}.png"));
        fs::copy(from, workplace.path(&format!("flat/{number}.png"))).unwrap();
    }
    fs::rename(workplace.path("things/blue"), workplace.path("blue")).unwrap();
    for (line, words) in [
        (
            "train-classifier --config things.toml --out a --data flat",
            "no labels",
        ),
        ("train-classifier --config things.toml --out b", "no labels"),
        (
            "train-classifier --config things.toml --out c --set classifier.block_out_channels=[6]",
            "norm_num_groups = 4",
        ),
        (
            "evaluate --first-stage --perceptual classifier",
            "--perceptual-weights FILE",
        ),
        (
            "evaluate --first-stage --perceptual lpips-vgg16 --perceptual-weights things.toml",
            "things.toml",
        ),
    ] {
        let sentence = workplace.fail(line);
        assert!(sentence.contains(words), "{line}: {sentence}");
    }
    let said = workplace.refuse("evaluate --first-stage --perceptual lpips-vgg");
    assert!(said.contains("lpips-vgg16"), "{said}");
    let said = workplace.refuse("evaluate --perceptual lpips-vgg16");
    assert!(said.contains("--first-stage"), "{said}");
}
