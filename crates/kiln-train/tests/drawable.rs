//! Checkpoints are models, too.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_train::{Experiment, RunOptions, RunRecord, StopSignal, load_model};

fn checkpoint(run: &Path, step: usize) -> PathBuf {
    run.join(format!("diffusion/checkpoints/step-{step:07}"))
}

/// The model of a checkpoint, written to the folder of the finished one.
fn drawn_from(checkpoint: &Path, to: &Path) -> DiffusionModel {
    let model = load_model(checkpoint, &Device::flex()).unwrap();
    model.save(&to.join("model"), Default::default()).unwrap();
    model
}

fn stopped(experiment: &Experiment, run: &Path, step: usize) {
    let options = RunOptions {
        stop: StopSignal::before_step(step),
        ..options(run)
    };
    assert!(stage_2(experiment, &options).unwrap().interrupted);
}

#[test]
fn the_last_checkpoint_is_the_finished_model() {
    for ema in [true, false] {
        let (place, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut experiment = pixels(&[]);
        if !ema {
            experiment.stage_2.training.ema = None;
        }
        in_pixel_space(&experiment, &options(place.path())).unwrap();
        let last = checkpoint(place.path(), 10);
        let model = drawn_from(&last, copy.path());
        assert_eq!(weights(copy.path()), weights(place.path()));
        let finished = ModelSource::Folder(RunRecord::finished_model(place.path()).unwrap());
        let finished = DiffusionModel::load(&finished, &Device::flex()).unwrap();
        assert_eq!(model.metadata, finished.metadata);
        assert_eq!(finished.metadata.sampling_count, Some(24));
        assert_eq!(finished.metadata.sampling_steps, Some(2));
    }
}

#[test]
fn a_stopped_run_can_be_drawn_from_and_says_from_where() {
    let (place, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (run, experiment) = (place.path(), experiment(&[]));
    let sentence = RunRecord::finished_model(run).unwrap_err().to_string();
    assert!(sentence.contains("neither"), "{sentence}");
    // The latents come from another run's VQ-VAE, which is not in this run.
    let first = tempfile::tempdir().unwrap();
    stage_1(&experiment, &options(first.path())).unwrap();
    let with_vqvae = RunOptions {
        vqvae: Some(first.path().join("vqvae/model")),
        stop: StopSignal::before_step(6),
        ..options(run)
    };
    assert!(stage_2(&experiment, &with_vqvae).unwrap().interrupted);
    let sentence = RunRecord::finished_model(run).unwrap_err().to_string();
    let newest = checkpoint(run, 6);
    assert!(
        sentence.contains(&newest.display().to_string()),
        "{sentence}"
    );
    let model = drawn_from(&newest, copy.path());
    assert!(model.first_stage.is_some());
    assert_eq!(model.metadata.training["steps"], "6");
}

#[test]
fn what_is_no_checkpoint_of_a_u_net_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (run, experiment) = (place.path(), experiment(&[]));
    stage_1(&experiment, &options(run)).unwrap();
    stopped(&experiment, run, 4);
    let refused = |path: &Path| {
        let error = load_model(path, &Device::flex()).err().unwrap();
        error.to_string()
    };
    let of_stage_1 = std::fs::read_dir(run.join("vqvae/checkpoints")).unwrap();
    let of_stage_1 = of_stage_1.map(|entry| entry.unwrap().path()).max().unwrap();
    assert!(refused(&of_stage_1).contains("vqvae/model"));
    let newest = checkpoint(run, 4);
    std::fs::write(newest.join("model.bpk"), "cut").unwrap();
    assert!(refused(&newest).contains("model.bpk"));
    std::fs::remove_dir_all(run.join("diffusion/start")).unwrap();
    assert!(refused(&newest).contains("diffusion/start"));
    assert!(refused(&run.join("diffusion")).contains("model_index.json"));
}
