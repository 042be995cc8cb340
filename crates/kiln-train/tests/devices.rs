//! N devices with batch B, or N micro-batches of B, train like one device with batch N x B.

mod common;

use std::path::PathBuf;

use common::{
    Train, assert_close, experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights,
    with_kl,
};
use kiln_pipeline::Devices;
use kiln_train::{Experiment, RunOptions, StopSignal, Strategy};

/// A way to split the 8 images of a step: devices, strategy, batch size, micro-batches.
type Cut = (&'static str, Strategy, usize, usize);

const WHOLE: Cut = ("cpu", Strategy::Main, 8, 1);
const HALVES: Cut = ("cpu:2", Strategy::Main, 4, 1);
const CUTS: [Cut; 4] = [
    HALVES,
    ("cpu:4", Strategy::Main, 2, 1),
    ("cpu", Strategy::Main, 2, 4),
    ("cpu:2", Strategy::Main, 2, 2),
];

/// No stop before the last step.
const END: usize = usize::MAX;

/// One of the stages, trained for 20 steps.
struct Training {
    train: Train,
    experiment: fn(&[&str]) -> Experiment,
    /// The experiment's table.
    table: &'static str,
    /// The run folder's part.
    folder: &'static str,
    /// The first stage of latent diffusion.
    vqvae: Option<PathBuf>,
}

/// The results of a training.
struct Outcome {
    /// The average of the weights, which the model keeps.
    weights: Vec<f32>,
    /// The learning rate's scheduler after the last step.
    scheduler: Vec<u8>,
    /// The lines of `metrics.csv`.
    metrics: String,
}

impl Training {
    /// Trains until the step of each piece with its split, and resumes.
    fn in_pieces(&self, pieces: &[(usize, Cut)]) -> Outcome {
        let place = tempfile::tempdir().unwrap();
        for &(stop, (devices, strategy, batch_size, accumulate)) in pieces {
            let sizes = [
                ("steps", 20),
                ("batch_size", batch_size),
                ("accumulate", accumulate),
            ];
            let overrides =
                sizes.map(|(key, size)| format!("{}.training.{key}={size}", self.table));
            let options = RunOptions {
                devices: Devices::parse(devices).unwrap(),
                strategy,
                resume: true,
                stop: StopSignal::before_step(stop),
                vqvae: self.vqvae.clone(),
                ..options(place.path())
            };
            let experiment = (self.experiment)(&overrides.each_ref().map(String::as_str));
            (self.train)(&experiment, &options).unwrap();
        }
        let file = |name| place.path().join(self.folder).join(name);
        Outcome {
            weights: weights(place.path()),
            scheduler: std::fs::read(file("checkpoints/step-0000020/scheduler.bpk")).unwrap(),
            metrics: std::fs::read_to_string(file("metrics.csv")).unwrap(),
        }
    }

    fn check(&self) {
        let whole = self.in_pieces(&[(END, WHOLE)]);
        for cut in CUTS {
            let outcome = self.in_pieces(&[(END, cut)]);
            outcome.assert_weights(&whole, cut);
            outcome.assert_metrics(&whole, cut);
        }
        // A run changes from two devices to one, and back.
        let pieces = [(7, HALVES), (14, WHOLE), (END, HALVES)];
        (self.in_pieces(&pieces)).assert_weights(&whole, pieces);
    }
}

impl Outcome {
    fn assert_weights(&self, whole: &Self, how: impl std::fmt::Debug) {
        assert_eq!(self.scheduler, whole.scheduler, "{how:?}");
        assert_close(&self.weights, &whole.weights, how);
    }

    fn assert_metrics(&self, whole: &Self, how: impl std::fmt::Debug) {
        assert_eq!(self.metrics.lines().count(), whole.metrics.lines().count());
        let mut pairs = self.metrics.lines().zip(whole.metrics.lines());
        assert!(
            pairs
                .next()
                .is_some_and(|(names, of_whole)| names == of_whole)
        );
        let columns: Vec<_> = whole.metrics.lines().next().unwrap().split(',').collect();
        // Scores lie near zero, where rounding errors flip judgements.
        let is_of_the_discriminator = |column: &str| {
            ["discriminator", "score", "adversarial"]
                .iter()
                .any(|word| column.starts_with(word))
        };
        for (row, of_whole) in pairs {
            let numbers = |row: &str| -> Vec<f64> {
                let cells = row.split(',').zip(&columns);
                let cells = cells.filter(|(_, column)| !is_of_the_discriminator(column));
                cells.map(|(cell, _)| cell.parse().unwrap()).collect()
            };
            let close = |(a, b): (f64, f64)| (a - b).abs() < 1e-5 * b.abs().max(1.0);
            let mut pairs = numbers(row).into_iter().zip(numbers(of_whole));
            assert!(pairs.all(close), "{how:?}: {row} is not {of_whole}");
        }
    }
}

#[test]
fn stage_1_with_averages_for_its_codebook() {
    let training = Training {
        train: stage_1,
        experiment,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    training.check();
}

/// The noise of the samples belongs to the images' places in the step.
#[test]
fn stage_1_with_a_posterior() {
    let training = Training {
        train: stage_1,
        experiment: with_kl,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    training.check();
}

/// A first stage with everything that a discriminator may have. It judges from the second step on and counts from the
/// fourth.
fn with_a_discriminator(overrides: &[&str]) -> Experiment {
    let own = r#"stage_1.adversarial={
        weight = { balanced = 0.1 }, feature_matching = 0.1, start = 3, head_start = 2, ramp = 4, lecam = 0.1,
        learning_rate = 1e-4,
        augmentation = ["colour", "translation", "cutout"], discriminator = { channels = 8 }
    }"#;
    experiment(&[&[own], overrides].concat())
}

#[test]
fn stage_1_with_a_discriminator() {
    let training = Training {
        train: stage_1,
        experiment: with_a_discriminator,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    training.check();
}

#[test]
fn latent_diffusion() {
    let place = tempfile::tempdir().unwrap();
    stage_1(&experiment(&[]), &options(place.path())).unwrap();
    let training = Training {
        train: stage_2,
        experiment,
        table: "stage_2",
        folder: "diffusion",
        vqvae: Some(place.path().join("vqvae/model")),
    };
    training.check();
}

#[test]
fn pixel_space_with_dropout_and_labels_that_are_dropped() {
    let training = Training {
        train: in_pixel_space,
        experiment: |overrides| {
            let own = [
                "stage_2.label_dropout=0.5",
                "unet.dropout=0.2",
                "stage_2.training.learning_rate=1e-3",
            ];
            pixels(&[&own, overrides].concat())
        },
        table: "stage_2",
        folder: "diffusion",
        vqvae: None,
    };
    training.check();
}

/// Gradients are summed in one order, whichever device finishes first.
#[test]
fn every_run_has_the_same_bits_and_resumes_exactly() {
    let vqvae = Training {
        train: stage_1,
        experiment,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    let unet = Training {
        train: in_pixel_space,
        experiment: pixels,
        table: "stage_2",
        folder: "diffusion",
        vqvae: None,
    };
    let judged = Training {
        train: stage_1,
        experiment: with_a_discriminator,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    let sampled = Training {
        train: stage_1,
        experiment: with_kl,
        table: "stage_1",
        folder: "vqvae",
        vqvae: None,
    };
    for training in [vqvae, judged, sampled, unet] {
        let table = training.table;
        for cut in [
            ("cpu:3", Strategy::Main, 2, 1),
            ("cpu:5", Strategy::Main, 1, 1),
            ("cpu:2", Strategy::Main, 2, 2),
        ] {
            let first = training.in_pieces(&[(END, cut)]);
            for pieces in [&[(END, cut)][..], &[(7, cut), (8, cut), (END, cut)]] {
                let second = training.in_pieces(pieces);
                assert!(first.weights == second.weights, "{table} {pieces:?}");
                if pieces.len() == 1 {
                    assert_eq!(first.metrics, second.metrics, "{table} {cut:?}");
                }
            }
        }
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
        message.contains("CUDA") && message.contains("use main"),
        "{message}"
    );
}
