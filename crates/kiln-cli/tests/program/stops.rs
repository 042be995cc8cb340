//! A training stops soon after a request, at any time, and a resume continues as if it had never stopped.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::process::{ended, signal};
use crate::training::{PIXELS, workplace};
use crate::{Workplace, program, wait_until};

/// A step of 2,000 batches, which is less than 100 passes.
const LONG_STEPS: &str = "train-diffusion --config pixels.toml --json --set stage_2.training.steps=2 \
     --set stage_2.training.batch_size=1 --set stage_2.training.accumulate=2000 --set stage_2.training.pictures_every=0";

fn with_pixels() -> Workplace {
    let workplace = workplace();
    fs::write(workplace.path("pixels.toml"), PIXELS).unwrap();
    workplace
}

/// A training's report, and the contents of its weights.
fn report(workplace: &Workplace, arguments: &str) -> Value {
    let output = workplace.run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kiln {arguments}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_step_of_too_many_passes_is_refused_with_the_numbers() {
    let workplace = with_pixels();
    for (arguments, table) in [
        ("train-diffusion --config pixels.toml", "stage_2.training"),
        ("train-vqvae --config experiment.toml", "stage_1.training"),
    ] {
        let arguments = format!("{arguments} --out run --set {table}.accumulate=100000");
        let sentence = workplace.fail(&arguments);
        for part in [
            &format!("`{table}.accumulate = 100000`"),
            "a step would see 400000 images",
            "100 times are the most",
            "give at most",
        ] {
            assert!(sentence.contains(part), "{part}: {sentence}");
        }
        assert!(!workplace.path("run").exists());
    }
}

#[cfg(unix)]
#[test]
fn a_long_step_is_left_at_once_and_done_again() {
    let workplace = with_pixels();
    let whole = report(&workplace, &format!("{LONG_STEPS} --out whole"));
    assert_eq!(
        (&whole["steps"], &whole["interrupted"]),
        (&2.into(), &false.into())
    );

    for (run, name) in [("term", "-TERM"), ("hup", "-HUP")] {
        let mut command = program(&workplace.path(""), &format!("{LONG_STEPS} --out {run}"));
        let said = workplace.path(&format!("{run}.said"));
        let command = command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said).unwrap());
        let mut child = command.spawn().unwrap();
        let begins =
            || fs::read_to_string(&said).is_ok_and(|said| said.contains("2 steps of 2000"));
        wait_until(&mut child, begins);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let stopped: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(stopped["interrupted"], true, "{stopped}");
        let resumed = report(
            &workplace,
            &format!("train-diffusion --out {run} --resume --json"),
        );
        assert_eq!(resumed["steps"], 2);
        let weights = |run: &str| {
            let file = format!("{run}/model/unet/diffusion_pytorch_model.safetensors");
            fs::read(workplace.path(&file)).unwrap()
        };
        assert!(weights("whole") == weights(run), "{name}");
    }
}

/// Each step is a round of its own, so a stop is in one of its validations, its pictures or its measurements, or before it.
#[cfg(unix)]
#[test]
fn a_stop_in_a_validation_loses_nothing_of_it() {
    let workplace = workplace();
    let digits = PIXELS
        .replace("\"folder\"", "\"mnist-10k\"")
        .replace("path = \"photos\"\n", "")
        .replace("size = 8", "size = 32");
    fs::write(workplace.path("digits.toml"), digits).unwrap();
    let train = "train-diffusion --config digits.toml --json --set stage_2.training.steps=4 \
         --set stage_2.training.checkpoint_every=1 --set stage_2.training.keep_checkpoints=1 --set stage_2.training.learning_rate=0.05 \
         --set data.validation_fraction=0.1 --set stage_2.training.validation_images=600 --set sampling.steps=3 --set sampling.count=100 \
         --set stage_2.evaluation.features=digits --set stage_2.evaluation.images=150 \
         --set stage_2.evaluation.every=1 --set stage_2.evaluation.best_by=loss";
    report(&workplace, &format!("{train} --out whole"));
    let said = workplace.path("said");
    let mut command = program(&workplace.path(""), &format!("{train} --out run"));
    // Twice in the first part of the training, and twice at its end.
    for (number, step) in [1, 1, 3, 3].into_iter().enumerate() {
        let (file, begun) = (fs::File::create(&said).unwrap(), format!("step {step}/4"));
        let command_here = command.stdout(Stdio::piped()).stderr(file);
        let mut child = command_here.spawn().unwrap();
        let is_far_enough = || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            said.contains(&begun) || number % 2 == 1 && said.contains("going on")
        };
        // On a slow machine it may have ended before, and then nothing is left of it to lose.
        while child.try_wait().unwrap().is_none() && !is_far_enough() {
            thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_none() {
            signal(&child, "-TERM");
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        command = program(
            &workplace.path(""),
            "train-diffusion --out run --resume --json",
        );
    }
    let resumed = report(&workplace, "train-diffusion --out run --resume --json");
    assert_eq!(
        (&resumed["steps"], &resumed["interrupted"]),
        (&4.into(), &false.into())
    );
    for file in [
        "diffusion/metrics.csv",
        "diffusion/samples/step-0000001.png",
        "diffusion/samples/step-0000002.png",
        "diffusion/samples/step-0000003.png",
        "diffusion/samples/step-0000004.png",
        "best/unet/diffusion_pytorch_model.safetensors",
        "model/unet/diffusion_pytorch_model.safetensors",
    ] {
        let read = |run: &str| fs::read(workplace.path(run).join(file)).unwrap();
        assert!(read("whole") == read("run"), "{file} differs");
    }
}

#[cfg(unix)]
#[test]
fn before_the_first_step_one_signal_is_enough() {
    let workplace = workplace();
    // A Hub that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let begun = [("-INT", 130), ("-TERM", 143), ("-HUP", 129)].map(|(name, code)| {
        let run = format!("run{name}");
        let arguments =
            format!("train-vqvae --config experiment.toml --data hf:ada/digits --out {run}");
        let mut command: Command = program(&workplace.path(""), &arguments);
        command.env("HF_ENDPOINT", &endpoint).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_until(&mut child, || workplace.path(&run).exists());
        (child, name, code)
    });
    for (child, name, _) in &begun {
        signal(child, name);
    }
    for (child, name, code) in begun {
        // The stop comes within the patience of the Hub's client; otherwise it would be an error of the Hub.
        assert_eq!(ended(child).code(), Some(code), "{name}");
        assert!(!workplace.path(&format!("run{name}")).exists(), "{name}");
    }
}
