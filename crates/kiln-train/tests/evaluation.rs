//! Drawn images are measured during the U-Net's training.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{column, experiment, in_pixel_space, options, pixels, stage_1, stage_2};
use kiln_train::Experiment;

/// The steps of the existing checkpoints.
fn checkpoints(run: &Path) -> Vec<usize> {
    let entries = std::fs::read_dir(run.join("diffusion/checkpoints")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<usize> = names
        .map(|name| name.strip_prefix("step-").unwrap().parse().unwrap())
        .collect();
    steps.sort_unstable();
    steps
}

/// The learning rate spoils the network again, so that the last checkpoint is not the best one.
fn measured(best_by: &str) -> Experiment {
    experiment(&[
        "stage_2.training.checkpoint_every=2",
        "stage_2.training.keep_checkpoints=1",
        "stage_2.training.learning_rate=0.05",
        "stage_2.training.final_learning_rate=0.05",
        "stage_2.training.clip_norm=0",
        "stage_2.evaluation.features=digits",
        "stage_2.evaluation.images=70",
        "stage_2.evaluation.every=2",
        best_by,
    ])
}

/// Trains both stages in `run`, keeping the best checkpoint by `best_by` and the last one.
fn trained(run: &Path, best_by: &str) {
    let experiment = measured(best_by);
    stage_1(&experiment, &options(run)).unwrap();
    stage_2(&experiment, &options(run)).unwrap();
}

/// The checkpoints of the step with the smallest value, and of the last step.
fn assert_kept(run: &Path, values: &BTreeMap<usize, f64>) {
    let best = values.iter().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let mut kept = vec![*best.0, 10];
    kept.dedup();
    assert_eq!(checkpoints(run), kept, "{values:?}");
}

#[test]
fn distances_are_logged_and_choose_the_best_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path();
    trained(run, "stage_2.evaluation.best_by=kernel");

    let kernel = column(run, "kernel/valid");
    assert_eq!(kernel.keys().collect::<Vec<_>>(), [&4, &8, &10]);
    assert_eq!(column(run, "loss/valid").len(), 5);
    assert!(
        column(run, "frechet/valid")
            .values()
            .all(|&distance| distance > 0.0)
    );
    let confident = column(run, "confident/valid");
    assert!(confident.values().all(|share| (0.0..=1.0).contains(share)));

    assert_kept(run, &kernel);
    // The chosen checkpoint is a model, too.
    let best = kernel.iter().min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let model = kiln_train::load_model(&run.join("best"), &burn::tensor::Device::flex()).unwrap();
    assert_eq!(model.metadata.training["steps"], best.to_string());
}

#[test]
fn without_a_word_about_it_the_loss_chooses() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path();
    trained(run, "stage_2.evaluation.best_by=loss");
    assert_kept(run, &column(run, "loss/valid"));
}

#[test]
fn images_that_the_judge_cannot_read_end_the_training_before_it_begins() {
    let place = tempfile::tempdir().unwrap();
    let small = pixels(&["stage_2.evaluation.features=digits"]);
    let message = in_pixel_space(&small, &options(place.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("digit classifier cannot read") && message.contains("8x8"),
        "{message}"
    );
    assert!(!place.path().join("diffusion/metrics.csv").exists());
}
