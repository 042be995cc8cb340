//! Several ranks learn the same as one process.

use std::{fs, process::Command};

use serde_json::Value;

use super::{
    EXPERIMENT, PIXELS, UNET, VQVAE, Workplace, assert_close, job, machines::TwoMachines, metrics,
    succeed, twenty_steps, weights,
};

/// Trains in the run `one` with one process and in the run `many` with two, which `launch` starts, and compares the
/// results of both. `files` are the model's and the folder of the stage.
fn compare(
    workplace: &Workplace,
    launch: impl Fn(&Workplace, usize, &str) -> Command,
    command: &str,
    [one, many]: [&str; 2],
    files: [&str; 2],
) {
    let command = format!("{command} --config experiment.toml --json");
    let output = workplace.run(&format!("{command} --out one {one}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    let output = succeed(launch(
        workplace,
        2,
        &format!("{command} --out many {many}"),
    ));
    // Only rank 0 prints.
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], false);
    let progress = String::from_utf8_lossy(&output.stderr);
    assert_eq!(progress.matches("step 20/20").count(), 1, "{progress}");

    let [model, stage] = files;
    let of = |run: &str, file: &str| workplace.path(&format!("{run}/{file}"));
    assert_close(
        &weights(&of("one", model)),
        &weights(&of("many", model)),
        &command,
    );
    // The scheduler's position determines the learning rate.
    let scheduler = format!("{stage}/checkpoints/step-0000020/scheduler.bpk");
    let position = |run| fs::read(of(run, &scheduler)).unwrap();
    assert_eq!(position("one"), position("many"), "{command}");
    let rows = |run| metrics(&of(run, &format!("{stage}/metrics.csv")));
    assert_eq!(rows("one").len(), 3);
    for (one, many) in rows("one").into_iter().zip(rows("many")) {
        assert_eq!(one.len(), many.len());
        let differ = |one: f64, many: f64| (one - many).abs() > 1e-5 * one.abs().max(1.0);
        let apart = one.iter().zip(&many).any(|(&one, &many)| differ(one, many));
        assert!(!apart, "{command}: {one:?} {many:?}");
    }
}

/// Settings of one process, and of each of two, for steps of 10 images. There are 24, so some steps cross the end of a
/// pass.
const STEPS_OF_TEN: [&str; 2] = [
    "--set stage_1.training.batch_size=10 --set stage_2.training.batch_size=10",
    "--set stage_1.training.batch_size=5 --set stage_2.training.batch_size=5",
];

#[test]
fn two_ranks_train_like_one_process() {
    let workplace = twenty_steps(EXPERIMENT);
    let command = "train-vqvae";
    compare(&workplace, job, command, STEPS_OF_TEN, [VQVAE, "vqvae"]);
    let command = "train-latent-diffusion --vqvae one/vqvae/model";
    compare(&workplace, job, command, STEPS_OF_TEN, [UNET, "diffusion"]);
}

#[test]
fn two_ranks_of_two_devices_and_two_micro_batches_train_like_one_process() {
    let workplace = twenty_steps(PIXELS);
    let settings = [
        "--set stage_2.training.batch_size=8",
        "--devices cpu:2 --set stage_2.training.batch_size=1 --set stage_2.training.accumulate=2",
    ];
    compare(
        &workplace,
        job,
        "train-diffusion",
        settings,
        [UNET, "diffusion"],
    );
}

#[test]
fn two_machines_train_like_one() {
    let workplace = twenty_steps(EXPERIMENT);
    let Some(machines) = TwoMachines::new(&workplace) else {
        return;
    };
    let launch =
        |workplace: &Workplace, ranks, arguments: &str| machines.job(workplace, ranks, arguments);
    compare(
        &workplace,
        launch,
        "train-vqvae",
        STEPS_OF_TEN,
        [VQVAE, "vqvae"],
    );
}
