//! A resumed run has the experiment and the data of its beginning, and names every difference.

mod common;

use std::path::Path;

use common::{PIXELS, experiment, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_data::{Datasets, ImageDataset, ImageShape};
use kiln_train::{Experiment, RunOptions, StopSignal, TrainError};

fn stopped(options: &RunOptions, step: usize) -> RunOptions {
    RunOptions {
        stop: StopSignal::before_step(step),
        ..options.clone()
    }
}

fn resumed(options: &RunOptions) -> RunOptions {
    RunOptions {
        resume: true,
        ..options.clone()
    }
}

fn refusal<T>(result: Result<T, TrainError>) -> String {
    match result {
        Ok(_) => panic!("it went on"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_changed_objective_is_refused_by_its_key() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    in_pixel_space(&pixels(&[]), &stopped(&options, 3)).unwrap();
    let config = std::fs::read(place.path().join("config.toml")).unwrap();
    for (change, key) in [
        ("stage_2.prediction=velocity", "`stage_2.prediction`"),
        ("stage_2.loss_on=signal", "`stage_2.loss_on`"),
        (
            "stage_2.noise_levels=uniform-noise-power",
            "`stage_2.noise_levels`",
        ),
        (
            "stage_2.training.ema.decay=0.5",
            "`stage_2.training.ema.decay`",
        ),
        (
            "stage_2.training.accumulate=2",
            "`stage_2.training.accumulate`",
        ),
        (
            "schedule.num_train_timesteps=500",
            "`schedule.num_train_timesteps`",
        ),
    ] {
        let sentence = refusal(in_pixel_space(&pixels(&[change]), &resumed(&options)));
        assert!(sentence.contains(key), "{change}: {sentence}");
    }
    assert_eq!(
        std::fs::read(place.path().join("config.toml")).unwrap(),
        config
    );
    // Keys for the length of the training and for what is kept, measured and drawn may change.
    let free = pixels(&[
        "stage_2.training.steps=5",
        "stage_2.training.checkpoint_every=1 pass",
        "stage_2.training.pictures_every=0",
        "stage_2.training.validation_images=8",
        "sampling.steps=3",
    ]);
    let report = in_pixel_space(&free, &resumed(&options)).unwrap();
    assert_eq!((report.steps, report.new_steps), (5, 2));
}

#[test]
fn an_average_cannot_be_added_or_removed_on_the_way() {
    let with = pixels(&[]);
    let without = Experiment::parse(&PIXELS.replace("ema = { decay = 0.9 }", ""), "pixels", &[]);
    let without = without.unwrap();
    for (before, now) in [(&with, &without), (&without, &with)] {
        let place = tempfile::tempdir().unwrap();
        let options = options(place.path());
        in_pixel_space(before, &stopped(&options, 3)).unwrap();
        let sentence = refusal(in_pixel_space(now, &resumed(&options)));
        assert!(sentence.contains("`stage_2.training.ema`"), "{sentence}");
    }
}

/// The manifest of the checkpoint after `step` steps in pixel space.
fn manifest(run: &Path, step: usize) -> std::path::PathBuf {
    run.join(format!(
        "diffusion/checkpoints/step-{step:07}/checkpoint.json"
    ))
}

/// Removes the parts that older kilns did not write.
fn make_old(run: &Path, step: usize) {
    common::edit_manifest(&manifest(run, step), |text| {
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json.as_object_mut().unwrap().remove("identity").unwrap();
        json.to_string()
    });
}

#[test]
fn a_checkpoint_of_an_older_kiln_goes_on_and_is_compared_by_the_config_of_its_run() {
    let place = tempfile::tempdir().unwrap();
    let whole = options(&place.path().join("whole"));
    in_pixel_space(&pixels(&[]), &whole).unwrap();
    let old = options(&place.path().join("old"));
    in_pixel_space(&pixels(&[]), &stopped(&old, 3)).unwrap();
    make_old(&old.out, 3);
    let sentence = refusal(in_pixel_space(
        &pixels(&["stage_2.prediction=velocity"]),
        &resumed(&old),
    ));
    assert!(sentence.contains("`stage_2.prediction`"), "{sentence}");
    in_pixel_space(&pixels(&[]), &resumed(&old)).unwrap();
    assert!(
        weights(&whole.out) == weights(&old.out),
        "the weights differ"
    );
}

#[test]
fn weights_of_another_network_are_refused_whatever_the_run_says_of_itself() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let without = Experiment::parse(&PIXELS.replace("ema = { decay = 0.9 }", ""), "pixels", &[]);
    in_pixel_space(&without.unwrap(), &stopped(&options, 3)).unwrap();
    make_old(&options.out, 3);
    let config = place.path().join("config.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let header = before.lines().next().unwrap();
    let lie = pixels(&[]).to_toml().unwrap();
    std::fs::write(config, format!("{header}\n{lie}")).unwrap();
    let sentence = refusal(in_pixel_space(&pixels(&[]), &resumed(&options)));
    assert!(sentence.contains("holds other weights"), "{sentence}");
}

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};

/// Images of these brightnesses.
fn set(pixels: &[u8], labels: Option<Vec<u32>>) -> ImageDataset {
    let pixels = pixels.iter().flat_map(|&pixel| [pixel; 64]).collect();
    ImageDataset::from_pixels("own", SHAPE, pixels, labels).unwrap()
}

#[test]
fn other_images_and_other_labels_are_refused() {
    let text = PIXELS
        .replace("num_class_embeds = 11", "")
        .replace("label_dropout = 0.1", "");
    let experiment = Experiment::parse(&text, "own", &["data.dataset=own".to_owned()]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let on = |train: ImageDataset, validation: ImageDataset| RunOptions {
        data: Some(Datasets { train, validation }),
        ..options(place.path())
    };
    let (images, labels) = (
        [10, 20, 30, 40, 50, 60, 70, 80],
        vec![0, 0, 1, 1, 2, 2, 3, 3],
    );
    let train = || set(&images, Some(labels.clone()));
    let validation = || set(&[15, 25], Some(vec![0, 1]));
    in_pixel_space(&experiment, &stopped(&on(train(), validation()), 3)).unwrap();

    let mut others = images;
    others[7] = 81;
    let more = [&images[..], &[90]].concat();
    let mut shifted = labels.clone();
    shifted[0] = 1;
    for (train, validation, words) in [
        (
            set(&others, Some(labels.clone())),
            validation(),
            "the 8 training images are not",
        ),
        (
            set(&more, Some(vec![0; 9])),
            validation(),
            "there were 8 training images and are now 9",
        ),
        (set(&images, Some(shifted)), validation(), "other labels"),
        (set(&images, None), validation(), "other labels"),
        (
            train(),
            set(&[15, 26], Some(vec![0, 1])),
            "the 2 validation images are not",
        ),
    ] {
        let sentence = refusal(in_pixel_space(
            &experiment,
            &resumed(&on(train, validation)),
        ));
        assert!(
            sentence.contains(words) && sentence.contains("--data"),
            "{words}: {sentence}"
        );
    }
    in_pixel_space(&experiment, &resumed(&on(train(), validation()))).unwrap();
}

#[test]
fn latents_of_another_vqvae_are_not_gone_on_with() {
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| options(&place.path().join(name)));
    let other = experiment(&["seed=4"]);
    stage_1(&experiment(&[]), &first).unwrap();
    stage_1(&other, &second).unwrap();

    // The VQ-VAE of another run, named with --vqvae.
    stage_2(&experiment(&[]), &stopped(&first, 3)).unwrap();
    let named = RunOptions {
        vqvae: Some(second.out.join("vqvae/model")),
        ..resumed(&first)
    };
    let sentence = refusal(stage_2(&experiment(&[]), &named));
    assert!(
        sentence.contains("second/vqvae/model") && sentence.contains("--vqvae"),
        "{sentence}"
    );

    // The run began with it, and finds it again by itself.
    let third = options(&place.path().join("third"));
    let begun = RunOptions {
        vqvae: named.vqvae.clone(),
        ..stopped(&third, 3)
    };
    stage_2(&experiment(&[]), &begun).unwrap();
    let report = stage_2(&experiment(&[]), &resumed(&third)).unwrap();
    assert_eq!(report.new_steps, 7);

    // Stage 1 trained again in place.
    std::fs::remove_dir_all(first.out.join("vqvae")).unwrap();
    stage_1(&other, &first).unwrap();
    let sentence = refusal(stage_2(&experiment(&[]), &resumed(&first)));
    assert!(
        sentence.contains("is not the one that this run began with"),
        "{sentence}"
    );
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    in_pixel_space(&pixels(&[]), &options).unwrap();
    let files = [
        "config.toml",
        "model/unet/config.json",
        "diffusion/metrics.csv",
    ];
    let read = || files.map(|name| std::fs::read(place.path().join(name)).unwrap());
    let before = read();
    for steps in ["10", "3"] {
        let fewer = pixels(&[&format!("stage_2.training.steps={steps}")]);
        let report = in_pixel_space(&fewer, &resumed(&options)).unwrap();
        assert_eq!(
            (report.steps, report.new_steps, report.seconds_per_pass),
            (10, 0, None)
        );
        assert!(
            report
                .to_string()
                .contains("finished before, after 10 steps"),
            "{report}"
        );
    }
    assert!(read() == before);
    // It also says so if the experiment differs.
    let other = pixels(&["stage_2.prediction=velocity"]);
    let sentence = refusal(in_pixel_space(&other, &resumed(&options)));
    assert!(sentence.contains("`stage_2.prediction`"), "{sentence}");

    // If the model is missing, the checkpoint makes it again.
    let whole = weights(place.path());
    std::fs::remove_dir_all(place.path().join("model")).unwrap();
    let sentence = refusal(in_pixel_space(
        &pixels(&["stage_2.training.steps=3"]),
        &resumed(&options),
    ));
    assert!(
        sentence.contains("--set stage_2.training.steps=10"),
        "{sentence}"
    );
    let report = in_pixel_space(&pixels(&[]), &resumed(&options)).unwrap();
    assert_eq!((report.steps, report.new_steps), (10, 0));
    assert!(weights(place.path()) == whole, "the weights differ");
    let rows = common::column(place.path(), "loss/train");
    assert!(rows.contains_key(&10), "the last row is whole: {rows:?}");
}

#[test]
fn stage_2_leaves_the_tables_of_stage_1_as_that_was_run() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    stage_1(&experiment(&["stage_1.training.steps=4"]), &options).unwrap();
    stage_2(&experiment(&["stage_2.training.steps=2"]), &options).unwrap();
    let written = Experiment::load(&place.path().join("config.toml"), &[]).unwrap();
    let first_stage = written.first_stage.unwrap();
    assert_eq!(first_stage.stage_1.training.steps, 4);
    assert_eq!(written.stage_2.training.steps, 2);
    let set = ["stage_1.training.steps=4", "stage_2.training.steps=2"];
    assert_eq!(written.overrides, set);
}

#[test]
fn the_model_says_how_many_steps_it_has_learnt_for() {
    let place = tempfile::tempdir().unwrap();
    let first = options(&place.path().join("first"));
    in_pixel_space(&pixels(&[]), &first).unwrap();
    let second = RunOptions {
        initial_weights: Some(first.out.join("model")),
        ..options(&place.path().join("second"))
    };
    in_pixel_space(&pixels(&[]), &stopped(&second, 3)).unwrap();
    // The initial model is no longer needed.
    let rest = RunOptions {
        initial_weights: None,
        ..resumed(&second)
    };
    std::fs::remove_dir_all(&first.out).unwrap();
    in_pixel_space(&pixels(&["stage_2.training.steps=12"]), &rest).unwrap();
    let source = ModelSource::Folder(second.out.join("model"));
    let model = DiffusionModel::load(&source, &burn::tensor::Device::flex()).unwrap();
    let facts = &model.metadata.training;
    assert_eq!(
        (&facts["steps"][..], &facts["earlier_steps"][..]),
        ("12", "10")
    );
}

#[test]
fn a_damaged_cache_of_latents_is_encoded_again() {
    let place = tempfile::tempdir().unwrap();
    let whole = options(&place.path().join("whole"));
    stage_1(&experiment(&[]), &whole).unwrap();
    stage_2(&experiment(&[]), &whole).unwrap();
    let damaged = RunOptions {
        vqvae: Some(whole.out.join("vqvae/model")),
        ..options(&place.path().join("damaged"))
    };
    stage_2(&experiment(&[]), &stopped(&damaged, 3)).unwrap();
    let mut caches = std::fs::read_dir(damaged.out.join("latents")).unwrap();
    let cache = (caches.next().unwrap().unwrap().path()).join("train-00000.safetensors");
    let mut bytes = std::fs::read(&cache).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&cache, &bytes).unwrap();
    stage_2(&experiment(&[]), &resumed(&damaged)).unwrap();
    let again = std::fs::read(&cache).unwrap();
    assert!(again != bytes, "it was not written again");
    assert!(weights(&whole.out).ends_with(&weights(&damaged.out)));

    // A sparse file, and an endless one.
    std::fs::File::create(&cache)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let more = experiment(&["stage_2.training.steps=11"]);
    stage_2(&more, &resumed(&damaged)).unwrap();
    assert_eq!(std::fs::read(&cache).unwrap().len(), again.len());
    #[cfg(unix)]
    {
        std::fs::remove_file(&cache).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &cache).unwrap();
        let more = experiment(&["stage_2.training.steps=12"]);
        stage_2(&more, &resumed(&damaged)).unwrap();
        assert_eq!(std::fs::read(&cache).unwrap().len(), again.len());
    }
}

#[test]
fn rows_that_cannot_be_written_are_kept_by_the_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let metrics = place.path().join("diffusion/metrics.csv");
    std::fs::create_dir_all(&metrics).unwrap(); // a file cannot be renamed to a folder
    in_pixel_space(&pixels(&[]), &options).unwrap();
    assert!(metrics.is_dir() && place.path().join("model").exists());
    let sentence = refusal(in_pixel_space(
        &pixels(&["stage_2.training.steps=12"]),
        &resumed(&options),
    ));
    assert!(sentence.contains("metrics.csv"), "{sentence}");
    std::fs::remove_dir(&metrics).unwrap();
    let steps = || {
        let rows = common::column(place.path(), "loss/train");
        rows.into_keys().collect::<Vec<_>>()
    };
    // Only the rows are left to write.
    in_pixel_space(&pixels(&[]), &resumed(&options)).unwrap();
    assert_eq!(steps(), [4, 8, 10]);
    in_pixel_space(&pixels(&["stage_2.training.steps=12"]), &resumed(&options)).unwrap();
    assert_eq!(steps(), [4, 8, 10, 12]);
}

#[test]
fn infinite_numbers_among_the_metrics_stay() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    in_pixel_space(&pixels(&[]), &stopped(&options, 4)).unwrap();
    let text = "step,loss/train,loss/valid\n2,0.5,-inf\n4,inf,NaN\n";
    std::fs::write(place.path().join("diffusion/metrics.csv"), text).unwrap();
    in_pixel_space(&pixels(&[]), &resumed(&options)).unwrap();
    let rows = common::column(place.path(), "loss/train");
    assert!(rows[&4].is_infinite());
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), [2, 4, 8, 10]);
}
