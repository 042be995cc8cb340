//! Drawn images are measured during the U-Net's training.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{column, experiment, in_pieces, in_pixel_space, options, pixels, stage_1, stage_2};
use kiln_train::{Experiment, RunOptions, StopSignal};

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

/// What a run keeps of its measurements, and the pictures that it drew.
fn measurements(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        "metrics.csv".to_owned(),
        "../best/unet/diffusion_pytorch_model.safetensors".to_owned(),
        "../model/unet/diffusion_pytorch_model.safetensors".to_owned(),
    ];
    let pictures = (1..=10).map(|step| format!("samples/step-{step:07}.png"));
    files.extend(pictures.filter(|file| run.join("diffusion").join(file).exists()));
    let read = |file: String| {
        let bytes = std::fs::read(run.join("diffusion").join(&file)).unwrap();
        (file, bytes)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn a_stop_before_a_validation_loses_no_measurement_no_picture_and_not_the_best_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    for best_by in ["loss", "kernel"] {
        let best_by = format!("stage_2.evaluation.best_by={best_by}");
        let experiment = measured(&best_by);
        let out = |name: &str| place.path().join(&best_by).join(name);
        let whole = options(&out("whole"));
        stage_1(&experiment, &whole).unwrap();
        stage_2(&experiment, &whole).unwrap();
        let expected = measurements(&whole.out);
        // Both models and the table, and a picture of each validation.
        assert_eq!(expected.len(), 3 + 5);

        let pieces = RunOptions {
            vqvae: Some(whole.out.join("vqvae/model")),
            ..options(&out("pieces"))
        };
        // All of them before validations, so that metrics.csv has no rows of its own; the last one after the last step.
        in_pieces(stage_2, &experiment, &pieces, &[2, 4, 6, 8, 10]);
        for (expected, found) in expected.iter().zip(&measurements(&pieces.out)) {
            assert!(expected == found, "{best_by}: {} differs", expected.0);
        }
        assert_eq!(checkpoints(&whole.out), checkpoints(&pieces.out));

        let again = RunOptions {
            resume: true,
            ..pieces
        };
        let report = stage_2(&experiment, &again).unwrap().to_string();
        assert!(report.contains("finished before"), "{report}");
    }
}

#[test]
fn a_training_that_is_stopped_in_its_last_validation_says_what_is_left() {
    let place = tempfile::tempdir().unwrap();
    let experiment = measured("stage_2.evaluation.best_by=loss");
    let run = options(place.path());
    stage_1(&experiment, &run).unwrap();
    let stopped = RunOptions {
        stop: StopSignal::before_step(10),
        ..run.clone()
    };
    let report = stage_2(&experiment, &stopped).unwrap();
    let said = report.to_string();
    assert!(
        report.interrupted
            && said.contains("before the end of the validation, which --resume does"),
        "{said}"
    );
    // The last step has its weights already, and which are best is to be found.
    assert!(place.path().join("model").is_dir() && !place.path().join("best").exists());
    let resumed = RunOptions {
        resume: true,
        ..run
    };
    let report = stage_2(&experiment, &resumed).unwrap();
    let said = report.to_string();
    assert!(
        !report.interrupted && report.new_steps == 0 && report.best.is_some(),
        "{report:?}"
    );
    assert!(said.contains("no step was left to do"), "{said}");
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
