//! `kiln check`, on the smallest experiments.

use std::fs;

use crate::training::{EXPERIMENT, PIXELS, train, workplace};

const STUDENT: &str = r#"
[stage_2.distillation]
method = "consistency-tuning"

[stage_2.training]
steps = 8
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 4
"#;

#[test]
fn both_stages_are_described_and_nothing_is_left() {
    let workplace = workplace();
    let before = fs::read_dir(workplace.path("")).unwrap().count();
    let arguments = "check experiment.toml --set stage_2.training.steps=66 --json";
    let found = workplace.json(arguments);
    assert_eq!(found["kind"], "latent-diffusion");
    assert_eq!(found["latents"], serde_json::json!([2, 4, 4]));
    assert_eq!(found["images"]["train"], 22);
    assert_eq!(found["images"]["classes"], serde_json::json!([]));
    let [first, second] = [&found["stages"][0], &found["stages"][1]];
    assert_eq!(
        (&first["stage"], &second["stage"]),
        (&"vqvae".into(), &"latent-diffusion".into())
    );
    assert_eq!(first["networks"][0]["name"], "vqvae");
    assert_eq!(second["networks"][0]["name"], "unet");
    assert_eq!(second["steps"], 66);
    assert_eq!(second["steps_per_pass"], 5.5);
    assert_eq!(second["passes"], 12.0);
    for stage in [first, second] {
        assert!(stage["networks"][0]["parameters"].as_u64().unwrap() > 100);
        assert!(stage["memory"].as_f64().unwrap() > 1e6);
        let each = stage["pace"]["seconds_per_step"].as_f64().unwrap();
        let steps = stage["steps"].as_f64().unwrap();
        let seconds = stage["seconds"].as_f64().unwrap();
        assert!(each > 0.0 && (seconds - each * steps).abs() < 1e-9);
    }
    let set = "--set stage_2.training.steps=66";
    assert_eq!(
        found["commands"][1],
        format!("kiln train-latent-diffusion --config experiment.toml {set}")
    );
    assert_eq!(fs::read_dir(workplace.path("")).unwrap().count(), before);
}

#[test]
fn a_quick_look_measures_nothing_and_says_so() {
    let workplace = workplace();
    fs::write(workplace.path("pixels.toml"), PIXELS).unwrap();
    let words = workplace.succeed("check pixels.toml --quick --data photos");
    for part in [
        "diffusion in pixel space",
        "to train on  22",
        "1 x 8 x 8",
        "4 steps of 4 images",
        "No steps were measured.",
        "kiln train-diffusion --config pixels.toml --data photos",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!words.contains("latents"), "{words}");
    let found = workplace.json("check pixels.toml --quick --json");
    assert!(found["stages"][0].get("seconds").is_none());
}

#[test]
fn a_student_is_checked_with_its_teacher() {
    let workplace = workplace();
    train(&workplace, "train-vqvae --out run");
    train(&workplace, "train-latent-diffusion --out run");
    fs::write(workplace.path("student.toml"), STUDENT).unwrap();
    let found = workplace.json("check student.toml --model run --json");
    assert_eq!(
        (&found["kind"], &found["stages"][0]["stage"]),
        (&"distillation".into(), &"distillation".into())
    );
    assert!(found["stages"][0]["seconds"].as_f64().unwrap() > 0.0);
    let sentence = workplace.fail("check student.toml");
    assert!(
        sentence.contains("name it, as in `kiln check student.toml --model"),
        "{sentence}"
    );
    let sentence = workplace.fail("check experiment.toml --model run");
    assert!(sentence.contains("[stage_2.distillation]"), "{sentence}");
}

#[test]
fn what_training_refuses_is_refused_in_the_same_words() {
    let workplace = workplace();
    fs::write(workplace.path("pixels.toml"), PIXELS).unwrap();
    fs::write(workplace.path("torn.toml"), "[data\n").unwrap();
    fs::write(workplace.path("unknown.toml"), format!("{PIXELS}[extra]\n")).unwrap();
    let typing = EXPERIMENT.replace("batch_size", "batch_sice");
    fs::write(workplace.path("typing.toml"), typing).unwrap();
    fs::create_dir(workplace.path("empty")).unwrap();
    for (command, arguments) in [
        ("train-diffusion", "nowhere.toml"),
        ("train-diffusion", "torn.toml"),
        ("train-diffusion", "unknown.toml"),
        ("train-vqvae", "typing.toml"),
        ("train-diffusion", "pixels.toml --data nowhere"),
        ("train-diffusion", "pixels.toml --data empty"),
        ("train-diffusion", "pixels.toml --set data.size=9"),
        (
            "train-diffusion",
            "pixels.toml --set unet.num_class_embeds=5",
        ),
        (
            "train-diffusion",
            "pixels.toml --set stage_2.training.batch_size=1000000",
        ),
        (
            "train-diffusion",
            "pixels.toml --set stage_2.training.accumulate=9999",
        ),
        (
            "train-vqvae",
            "experiment.toml --set vqvae.num_vq_embeddings=60000",
        ),
        ("train-vqvae", "experiment.toml --devices tpu"),
    ] {
        let here = workplace.fail(&format!("check {arguments}"));
        let there = workplace.fail(&format!("{command} --out run --config {arguments}"));
        assert_eq!(here, there, "{arguments}");
    }
}

#[test]
fn a_classifier_is_checked_and_needs_classes() {
    let workplace = workplace();
    for (class, first) in [("dark", 0), ("light", 12)] {
        let folder = workplace.path("classes").join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in first..first + 12 {
            let name = format!("{number:02}.png");
            fs::copy(workplace.path("photos").join(&name), folder.join(&name)).unwrap();
        }
    }
    let config = r#"
[data]
dataset = "folder"
path = "classes"
size = 8
channels = 1

[classifier]
block_out_channels = [8]

[training]
steps = 20
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 10
"#;
    fs::write(workplace.path("classifier.toml"), config).unwrap();
    let found = workplace.json("check classifier.toml --json");
    assert_eq!(
        (&found["kind"], &found["stages"][0]["stage"]),
        (&"classifier".into(), &"classifier".into())
    );
    assert!(found["stages"][0]["seconds"].as_f64().unwrap() > 0.0);
    let commands = &found["commands"];
    let expected = ["kiln train-classifier --config classifier.toml"];
    assert_eq!(commands, &serde_json::json!(expected));
    let sentence = workplace.fail("check classifier.toml --data photos");
    assert!(sentence.contains("have no labels"), "{sentence}");
    let sentence = workplace.fail("check classifier.toml --model model");
    assert!(sentence.contains("leave out --model"), "{sentence}");
}
