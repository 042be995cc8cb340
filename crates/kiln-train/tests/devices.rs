//! N devices with batch B train like one device with batch N x B, and so do N micro-batches.

mod common;

use common::{experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use kiln_train::{Devices, RunOptions, Strategy};

/// The weights after 10 steps of both stages, on `devices` with `batch_size` images each.
fn trained(devices: &str, strategy: Strategy, batch_size: usize, accumulate: usize) -> Vec<f32> {
    let place = tempfile::tempdir().unwrap();
    let stages = ["stage_1", "stage_2"].map(|stage| {
        [
            format!("{stage}.training.batch_size={batch_size}"),
            format!("{stage}.training.accumulate={accumulate}"),
        ]
    });
    let overrides: Vec<&str> = stages.iter().flatten().map(String::as_str).collect();
    let experiment = experiment(&overrides);
    let options = RunOptions {
        devices: Devices::parse(devices).unwrap(),
        strategy,
        ..options(place.path())
    };
    stage_1(&experiment, &options).unwrap();
    stage_2(&experiment, &options).unwrap();
    weights(place.path())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn several_devices_and_micro_batches_train_like_one() {
    let one = trained("cpu", Strategy::Main, 8, 1);
    for (devices, strategy, batch_size, accumulate) in [
        ("cpu:2", Strategy::Main, 4, 1),
        ("cpu:2", Strategy::Sharded, 4, 1),
        ("cpu", Strategy::Main, 4, 2),
        ("cpu:2", Strategy::Main, 2, 2),
    ] {
        let several = trained(devices, strategy, batch_size, accumulate);
        let difference = largest_difference(&one, &several);
        assert!(
            difference < 1e-5,
            "{devices} {strategy:?} batch {batch_size} x {accumulate}: weights differ by {difference}"
        );
    }
}

#[test]
fn in_pixel_space_and_with_labels_they_do_so_too() {
    let trained = |devices: &str, batch_size: usize, accumulate: usize| {
        let place = tempfile::tempdir().unwrap();
        let experiment = pixels(&[
            "stage_2.label_dropout=0.5",
            "stage_2.training.learning_rate=1e-3",
            &format!("stage_2.training.batch_size={batch_size}"),
            &format!("stage_2.training.accumulate={accumulate}"),
        ]);
        let options = RunOptions {
            devices: Devices::parse(devices).unwrap(),
            ..options(place.path())
        };
        in_pixel_space(&experiment, &options).unwrap();
        weights(place.path())
    };
    let one = trained("cpu", 8, 1);
    for (devices, batch_size, accumulate) in [("cpu:2", 4, 1), ("cpu:2", 2, 2)] {
        let difference = largest_difference(&one, &trained(devices, batch_size, accumulate));
        assert!(
            difference < 1e-5,
            "{devices} batch {batch_size} x {accumulate}: weights differ by {difference}"
        );
    }
}

#[test]
fn ddp_needs_cuda() {
    let place = tempfile::tempdir().unwrap();
    let options = RunOptions {
        strategy: Strategy::Ddp,
        ..options(place.path())
    };
    let message = stage_1(&experiment(&[]), &options).unwrap_err().to_string();
    assert!(
        message.contains("CUDA") && message.contains("main or sharded"),
        "{message}"
    );
}
