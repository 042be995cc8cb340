//! Models that another program or a person wrote: all commands report their faults in the same words.

use std::fs;
use std::process::Command;

use crate::{Workplace, program};

const SCHEDULER: &str = "model/scheduler/scheduler_config.json";
const UNET: &str = "model/unet/config.json";
const WEIGHTS: &str = "model/unet/diffusion_pytorch_model.safetensors";

/// Replaces `old` by `new` in a file, which must have it once.
fn edit(workplace: &Workplace, file: &str, old: &str, new: &str) {
    let path = workplace.path(file);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{old} in {text}");
    fs::write(path, text.replace(old, new)).unwrap();
}

#[test]
fn a_model_without_a_size_cannot_be_drawn_with_and_all_commands_say_so() {
    let workplace = Workplace::new();
    edit(
        &workplace,
        UNET,
        "\"sample_size\": 4",
        "\"sample_size\": null",
    );
    let reason = "unet/config.json has no `sample_size`, so the size of the images is unknown";
    let sentence = workplace.fail("sample --model model --steps 2");
    assert!(sentence.contains(reason), "{sentence}");
    let output = workplace.run("doctor model");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let broken = said.lines().find(|line| line.contains("BROKEN")).unwrap();
    assert!(
        broken.contains("drawing")
            && broken.contains("kiln cannot draw")
            && broken.contains(reason),
        "{said}"
    );
    let said = workplace.succeed("model info model");
    let row = said
        .lines()
        .find(|line| line.contains("kiln sample"))
        .unwrap();
    assert!(
        row.contains("cannot draw") && row.contains(reason),
        "{said}"
    );
    let json = workplace.json("model info model --json");
    assert!(
        json["cannot_sample"].as_str().unwrap().contains(reason),
        "{json}"
    );
    assert!(json["sample"].is_null());
}

#[test]
fn words_of_python_for_what_is_no_number_are_named_with_their_key() {
    for word in ["Infinity", "-Infinity", "NaN"] {
        for (file, key) in [
            (SCHEDULER, "sigma_max"),
            (UNET, "norm_eps"),
            ("model/vqvae/config.json", "scaling_factor"),
            ("model/model_index.json", "_anything"),
        ] {
            let workplace = Workplace::new();
            let path = workplace.path(file);
            let text = fs::read_to_string(&path).unwrap();
            // At the front, so that it is the first of two.
            let text = text.replacen('{', &format!("{{\"{key}\": {word},"), 1);
            fs::write(path, text).unwrap();
            for command in ["sample --steps 2 --model", "model info"] {
                let sentence = workplace.fail(&format!("{command} model"));
                let said = format!("{file} says that `{key}` is {word}, which JSON does not allow");
                assert!(sentence.contains(&said), "{command}: {sentence}");
            }
        }
    }
}

#[test]
fn what_diffusers_and_editors_write_is_read() {
    let workplace = Workplace::new();
    edit(
        &workplace,
        SCHEDULER,
        "{",
        "{\"lambda_min_clipped\": -Infinity,",
    );
    for file in [SCHEDULER, UNET, "model/model_index.json"] {
        let text = fs::read_to_string(workplace.path(file)).unwrap();
        fs::write(workplace.path(file), format!("\u{feff}{text}")).unwrap();
    }
    workplace.succeed("sample --model model --steps 2 --count 1");
}

#[cfg(unix)]
#[test]
fn weights_that_are_no_file_are_not_called_missing() {
    for (make, words) in [
        ("mkfifo", "it is a device or a pipe, not a file"),
        ("mkdir", "it is a folder"),
        ("ln -s nowhere", "it is a link to a file that is not there"),
    ] {
        let workplace = Workplace::new();
        fs::remove_file(workplace.path(WEIGHTS)).unwrap();
        let mut words_of_make = make.split(' ');
        let mut command = Command::new(words_of_make.next().unwrap());
        let made = command
            .args(words_of_make)
            .arg(workplace.path(WEIGHTS))
            .status();
        assert!(made.unwrap().success());
        for arguments in [
            "sample --model model",
            "push model a/b --dry-run pushed",
            "model info model",
        ] {
            let output = program(&workplace.path(""), arguments)
                .env("HF_TOKEN", "hf_x")
                .output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains(words)
                    && said.contains("diffusion_pytorch_model.safetensors")
                    && !said.contains("lacks"),
                "{make}: {arguments}: {said}"
            );
        }
    }
}
