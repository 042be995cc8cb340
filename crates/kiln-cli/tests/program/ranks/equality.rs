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

/// Packs the photos of a workplace into four tar archives in `shards/`.
fn pack_photos(workplace: &Workplace) {
    let mut photos: Vec<_> = fs::read_dir(workplace.path("photos"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    photos.sort();
    fs::create_dir(workplace.path("shards")).unwrap();
    for (number, photos) in photos.chunks(6).enumerate() {
        let file = workplace.path(&format!("shards/shard-{number:03}.tar"));
        let mut archive = tar::Builder::new(fs::File::create(file).unwrap());
        for photo in photos {
            let name = photo.file_name().unwrap();
            archive.append_path_with_name(photo, name).unwrap();
        }
        archive.finish().unwrap();
    }
}

#[test]
fn two_ranks_see_streamed_shards_as_one_process_does() {
    let workplace = twenty_steps(PIXELS);
    pack_photos(&workplace);
    let shards = "train-diffusion --data shards --set data.shuffle_buffer=5";
    let of_ten = [10, 5].map(|images| format!("--set stage_2.training.batch_size={images}"));
    let of_ten = of_ten.each_ref().map(String::as_str);
    compare(&workplace, job, shards, of_ten, [UNET, "diffusion"]);
    // Encoding is shared by the ranks, and so are its files.
    let workplace = twenty_steps(EXPERIMENT);
    pack_photos(&workplace);
    let data = "--data shards --set data.shuffle_buffer=5";
    let command = format!("train-vqvae {data}");
    compare(&workplace, job, &command, STEPS_OF_TEN, [VQVAE, "vqvae"]);
    let command = format!("train-latent-diffusion {data} --vqvae one/vqvae/model");
    compare(&workplace, job, &command, STEPS_OF_TEN, [UNET, "diffusion"]);
}
