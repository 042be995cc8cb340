//! `--resume`: the settings that need not be repeated, and its messages.

use std::fs;

use serde_json::Value;

use crate::{
    Workplace,
    training::{self, PIXELS},
};

/// A workplace with a run in pixel space in `run/`, which ended after 4 steps of a velocity network.
fn begun() -> Workplace {
    let workplace = training::workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let arguments = "train-diffusion --config experiment.toml --out run --data photos";
    let set = "--set stage_2.prediction=velocity --precision f32";
    finish(&workplace, &format!("{arguments} {set}"));
    workplace
}

fn finish(workplace: &Workplace, arguments: &str) -> Value {
    let output = workplace.run(&format!("{arguments} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kiln {arguments}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_was_set_need_not_be_set_again() {
    let workplace = begun();
    let config = || fs::read_to_string(workplace.path("run/config.toml")).unwrap();
    for (steps, arguments) in [
        (6, "--out run"),
        (8, "--out run --config experiment.toml"),
        (10, "--out run --config experiment.toml --data photos"),
    ] {
        let set = format!("--resume --set stage_2.training.steps={steps}");
        let report = finish(&workplace, &format!("train-diffusion {arguments} {set}"));
        let all = ["steps", "of_steps", "new_steps"].map(|name| report[name].as_u64());
        assert_eq!(all, [Some(steps), Some(steps), Some(2)]);
        let config = config();
        assert!(config.contains("prediction = \"velocity\""), "{config}");
        assert!(config.contains(&format!("steps = {steps}")), "{config}");
    }

    // The images are also found from another folder.
    fs::create_dir(workplace.path("elsewhere")).unwrap();
    let arguments = "train-diffusion --out ../run --resume --set stage_2.training.steps=11";
    let output = crate::program(&workplace.path("elsewhere"), arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_changed_config_counts_and_is_refused_by_its_key() {
    let workplace = begun();
    let averaged = PIXELS.to_owned() + "[stage_2.training.ema]\ndecay = 0.9\n";
    fs::write(workplace.path("averaged.toml"), averaged).unwrap();
    let sentence = workplace.fail("train-diffusion --config averaged.toml --out run --resume");
    assert!(sentence.contains("`stage_2.training.ema`"), "{sentence}");
    let sentence = workplace.fail("train-diffusion --out run --resume --set seed=1");
    assert!(sentence.contains("--set seed=0"), "{sentence}");
}

#[test]
fn the_same_images_elsewhere_are_the_same_and_others_are_refused() {
    let workplace = begun();
    fs::rename(workplace.path("photos"), workplace.path("moved")).unwrap();
    let resume = "train-diffusion --out run --resume --set stage_2.training.steps=5";
    let sentence = workplace.fail(resume);
    assert!(sentence.contains("photos"), "{sentence}");
    finish(
        &workplace,
        &format!("{resume} --data ../{}/moved", {
            let folder = workplace.path("");
            folder.file_name().unwrap().to_string_lossy().into_owned()
        }),
    );
    fs::copy(
        workplace.path("moved/03.png"),
        workplace.path("moved/04.png"),
    )
    .unwrap();
    let resume = "train-diffusion --out run --resume --set stage_2.training.steps=6";
    let sentence = workplace.fail(&format!("{resume} --data moved"));
    assert!(sentence.contains("images are not those"), "{sentence}");
}

#[test]
fn data_that_is_named_and_not_there_is_an_error() {
    let workplace = begun();
    for named in ["--data nowhere", "--set data.path=nowhere"] {
        let resume = "train-diffusion --out run --resume --set stage_2.training.steps=5";
        let sentence = workplace.fail(&format!("{resume} {named}"));
        assert!(sentence.contains("nothing at nowhere"), "{sentence}");
    }
}

#[test]
fn what_is_set_of_a_stage_that_has_been_trained_is_left_aside_with_a_word() {
    let workplace = training::workplace();
    for stage in ["train-vqvae", "train-latent-diffusion"] {
        training::train(&workplace, &format!("{stage} --out run"));
    }
    let config = || fs::read_to_string(workplace.path("run/config.toml")).unwrap();
    let before = config();
    for (stage, set) in [
        ("train-latent-diffusion", "stage_1.training.steps=9"),
        ("train-vqvae", "stage_2.training.steps=9"),
        ("train-vqvae", "unet.layers_per_block=2"),
        // With so few steps nothing is left to do.
        ("train-latent-diffusion", "stage_2.training.steps=1"),
    ] {
        let output = workplace.run(&format!("{stage} --out run --resume --set {set}"));
        let said = String::from_utf8_lossy(&output.stderr);
        let (key, value) = set.split_once('=').unwrap();
        assert!(
            output.status.success() && said.contains(&format!("`{key}` stays")),
            "{set}: {said}"
        );
        assert!(said.contains(&format!(", not {value}")), "{set}: {said}");
        assert_eq!(config(), before, "{set}");
    }
    // Settings that are not repeated are not changes.
    for stage in ["train-vqvae", "train-latent-diffusion"] {
        let output = workplace.run(&format!("{stage} --out run --resume"));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{stage}");
    }
}

#[test]
fn a_vqvae_that_was_moved_is_asked_for() {
    let workplace = training::workplace();
    training::train(&workplace, "train-vqvae --out first");
    training::train(&workplace, "train-latent-diffusion --out run --vqvae first");
    fs::rename(workplace.path("first"), workplace.path("moved")).unwrap();
    // The run itself has a copy.
    let resume = "train-latent-diffusion --out run --resume --set stage_2.training.steps=5";
    assert_eq!(finish(&workplace, resume)["steps"], 5);
    fs::remove_dir_all(workplace.path("run/diffusion/start")).unwrap();
    let resume = "train-latent-diffusion --out run --resume --set stage_2.training.steps=6";
    let sentence = workplace.fail(resume);
    assert!(
        sentence.contains("no longer in") && sentence.contains("its new place with --vqvae"),
        "{sentence}"
    );
    let report = finish(&workplace, &format!("{resume} --vqvae moved"));
    assert_eq!(report["steps"], 6);
}

#[test]
fn devices_and_micro_batches_take_each_others_place() {
    let workplace = training::workplace();
    fs::write(workplace.path("experiment.toml"), PIXELS).unwrap();
    let train = "train-diffusion --config experiment.toml --devices cpu:2 --out";
    let more = "--resume --set stage_2.training.steps=6";
    for run in ["two", "one", "half"] {
        finish(&workplace, &format!("{train} {run}"));
    }
    finish(&workplace, &format!("{train} two {more}"));
    let resume = "train-diffusion --out one --set stage_2.training.accumulate=2";
    let report = finish(&workplace, &format!("{resume} {more}"));
    assert_eq!(report["steps"], 6);
    let weights = |run: &str| {
        let file = "model/unet/diffusion_pytorch_model.safetensors";
        fs::read(workplace.path(run).join(file)).unwrap()
    };
    assert!(weights("one") == weights("two"), "the weights differ");

    let output = workplace.run(&format!("train-diffusion --out half {more}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("a step saw 8 images before and now sees 4")
            && said.contains("a pass over the data was 3 steps and is now 6"),
        "{said}"
    );
}

#[test]
fn a_finished_run_and_one_that_is_not_there_say_so() {
    let workplace = begun();
    let before = fs::read(workplace.path("run/config.toml")).unwrap();
    for steps in ["", "--set stage_2.training.steps=2"] {
        let output = workplace.run(&format!("train-diffusion --out run --resume {steps}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains("finished before, after 4 steps"),
            "{said}"
        );
    }
    assert!(fs::read(workplace.path("run/config.toml")).unwrap() == before);

    let sentence = workplace.fail("train-diffusion --out nowhere --resume");
    assert!(sentence.contains("no run to resume"), "{sentence}");
    let sentence = workplace.fail("train-diffusion --resume");
    assert!(sentence.contains("--out"), "{sentence}");
    let output = workplace.run("train-diffusion --config experiment.toml --out new --resume");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("begins from its start"), "{said}");
}

#[test]
fn a_classifier_goes_on_as_if_it_had_never_stopped() {
    let workplace = Workplace::new();
    let config = "[data]\ndataset = \"mnist-10k\"\nsize = 28\nchannels = 1\n[augmentation]\nshift = 0.7\n\
        [training]\nsteps = 6\nbatch_size = 4\nlearning_rate = 1e-3\ncheckpoint_every = 2\nvalidation_images = 10\n";
    fs::write(workplace.path("classifier.toml"), config).unwrap();
    let train = "train-classifier --config classifier.toml --out";
    finish(&workplace, &format!("{train} whole"));
    // The state after a kill at the second checkpoint.
    finish(&workplace, &format!("{train} run"));
    fs::remove_dir_all(workplace.path("run/checkpoints/step-0000006")).unwrap();
    fs::remove_file(workplace.path("run/model.safetensors")).unwrap();
    let report = finish(&workplace, "train-classifier --out run --resume");
    assert_eq!(
        (&report["steps"], &report["new_steps"]),
        (&6.into(), &2.into())
    );
    let weights = |run: &str| fs::read(workplace.path(run).join("model.safetensors")).unwrap();
    assert!(weights("whole") == weights("run"), "the weights differ");

    let report = finish(&workplace, "train-classifier --out run --resume");
    assert_eq!(report["new_steps"], 0);
    let changed = "train-classifier --out run --resume --set augmentation.shift=0.5";
    let sentence = workplace.fail(changed);
    assert!(sentence.contains("`augmentation.shift`"), "{sentence}");
}
