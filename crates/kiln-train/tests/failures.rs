//! Every failure is one sentence, and saved files stay.

mod common;

use common::{PIXELS, TINY, experiment, in_pixel_space, options, pixels, stage_1, stage_2};
use kiln_train::{Experiment, RunOptions, StopSignal};

#[test]
fn a_diverged_training_says_at_which_step_and_keeps_the_last_good_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    stage_1(
        &experiment(&[]),
        &RunOptions {
            stop: StopSignal::before_step(4),
            ..options.clone()
        },
    )
    .unwrap();
    // The value is beyond the range of a 32-bit float. The checkpoint is edited to have had it before.
    let wild = experiment(&["stage_1.commitment=1e38"]);
    let manifest = place
        .path()
        .join("vqvae/checkpoints/step-0000004/checkpoint.json");
    common::edit_manifest(&manifest, |text| {
        text.replace("commitment = 0.25", "commitment = 1e38")
    });
    let resumed = RunOptions {
        resume: true,
        ..options.clone()
    };
    let Err(error) = stage_1(&wild, &resumed) else {
        panic!("the loss cannot be finite")
    };
    let message = error.to_string();
    assert!(
        message.contains("at step 5") && message.contains("checkpoint, of step 4"),
        "{message}"
    );
    assert!(place.path().join("vqvae/checkpoints/step-0000004").exists());
    assert!(!place.path().join("vqvae/model").exists());
}

#[test]
fn stage_2_needs_a_trained_vqvae() {
    let place = tempfile::tempdir().unwrap();
    let message = stage_2(&experiment(&[]), &options(place.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("train-vqvae") && message.contains("--vqvae"),
        "{message}"
    );
}

#[test]
fn latents_of_another_vqvae_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    stage_1(&experiment(&[]), &options).unwrap();
    stage_2(
        &experiment(&[]),
        &RunOptions {
            stop: StopSignal::before_step(0),
            ..options.clone()
        },
    )
    .unwrap();
    let latents = |run: &std::path::Path| {
        let mut folders = std::fs::read_dir(run.join("latents")).unwrap();
        let folder = folders.next().unwrap().unwrap().path();
        folder.join("train-00000.safetensors")
    };

    let elsewhere = tempfile::tempdir().unwrap();
    let other = RunOptions {
        out: elsewhere.path().to_owned(),
        ..options
    };
    stage_1(&experiment(&["seed=4"]), &other).unwrap();
    stage_2(
        &experiment(&["seed=4"]),
        &RunOptions {
            stop: StopSignal::before_step(0),
            ..other.clone()
        },
    )
    .unwrap();
    std::fs::copy(latents(place.path()), latents(elsewhere.path())).unwrap();
    let resumed = RunOptions {
        resume: true,
        ..other
    };
    let message = stage_2(&experiment(&["seed=4"]), &resumed)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("another VQ-VAE") && message.contains("remove"),
        "{message}"
    );
}

fn refusal(overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    match Experiment::parse(TINY, "tiny.toml", &overrides) {
        Ok(_) => panic!("{overrides:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn impossible_experiments_are_refused_with_key_value_and_cure() {
    for (overrides, words) in [
        (
            &["vqvae.in_channels=3"][..],
            &["vqvae.in_channels", "3", "must be 1"][..],
        ),
        (
            &["unet.in_channels=4"],
            &["unet.in_channels", "4", "must be 2"],
        ),
        (
            &["unet.sample_size=8"],
            &["unet.sample_size", "8", "must be 16"],
        ),
        (&["data.size=31"], &["data.size", "31", "multiple of 2"]),
        (
            &["stage_1.training.steps=0"],
            &["stage_1.training.steps", "0"],
        ),
        (
            &["stage_2.evaluation.features=512"],
            &["features are `digits`", "`2048`"],
        ),
        (
            &[
                "stage_2.evaluation.features=digits",
                "stage_2.evaluation.every=0",
            ],
            &["stage_2.evaluation.every", "at least 1"],
        ),
        (
            &["stage_2.training.learning_rate=-1"],
            &["stage_2.training.learning_rate", "-1"],
        ),
        (
            &["sampling.steps=1001"],
            &["sampling.steps", "1001", "1000"],
        ),
        (
            &["sampling.sampler={ kind = \"ddim\", eta = 2 }"],
            &["sampling.sampler", "eta", "2"],
        ),
        (&["sampling.count=0"], &["sampling.count", "0"]),
        (&["stage_1.training.steps=many"], &["steps", "many"]),
        (
            &["stage_1.training.betas=[0.9,1.0]"],
            &["stage_1.training.betas", "1"],
        ),
        (
            &["stage_2.training.epsilon=0.0"],
            &["stage_2.training.epsilon", "0"],
        ),
        (
            &["stage_1.training.ema.decay=2.0"],
            &["stage_1.training.ema", "2"],
        ),
        (&["codebook.decay=-1.0"], &["codebook", "-1"]),
        (
            &["stage_2.label_dropout=0.1"],
            &["stage_2.label_dropout", "0.1", "unet.num_class_embeds"],
        ),
        (
            &["unet.num_class_embeds=11", "stage_2.label_dropout=1.0"],
            &["stage_2.label_dropout", "1", "below 1"],
        ),
        (
            &["unet.class_embed_type=timestep"],
            &["unet.class_embed_type", "num_class_embeds"],
        ),
        (&["sampling.clip=0.0"], &["sampling.clip", "0", "above 0"]),
        (
            &["unet.num_train_timesteps=10"],
            &["unet.num_train_timesteps", "10", "at least 1000"],
        ),
        (&["stage_2.prediction=magic"], &["magic", "velocity"]),
        (&["stage_1.training.speed=9"], &["speed"]),
        (&["unet.norm_num_groups=3"], &["norm_num_groups", "3"]),
        (&["schedule.zero_terminal_snr=true"], &["noise", "velocity"]),
        (
            &["schedule.start_log_snr=3.0"],
            &["schedule", "`start_log_snr`", "`linear`", "beta_start"],
        ),
        (
            &["schedule.kind=cosine", "schedule.tau=1.0"],
            &["`tau`", "`cosine`", "num_train_timesteps"],
        ),
        (
            &["schedule.num_train_timestep=9"],
            &["did you mean `schedule.num_train_timesteps`"],
        ),
        (
            &["schedule.kind=sigmoid", "schedule.tau='much'"],
            &["`schedule.tau = \"much\"`", "a number"],
        ),
        (
            &["sampling.sampler={kind='heun', churn={amount='much'}}"],
            &["`sampling.sampler.churn.amount = \"much\"`", "a number"],
        ),
        (
            &["sampling.sampler={kind='pndm', order=3}"],
            &["`order`", "`pndm`", "no settings"],
        ),
        (&["stage_2.loss_on=magic"], &["magic", "velocity"]),
        (
            &["stage_2.loss_weight.min-snr.gamma=0.0"],
            &["stage_2.loss_weight", "`gamma` is 0"],
        ),
        (
            &["stage_2.noise_levels.log-normal.mean=99.0"],
            &["stage_2.noise_levels", "`mean` is 99"],
        ),
        (&["sampling.spacing=quadratic"], &["sampling", "quadratic"]),
        (&["seed"], &["--set seed", "table.key=value"]),
        (&["seed.x=1"], &["seed", "not a table"]),
    ] {
        let message = refusal(overrides);
        for word in words {
            assert!(message.contains(word), "`{word}` is missing in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn half_a_first_stage_is_refused_with_the_table_that_is_missing() {
    for (table, there, missing) in [
        ("[vqvae]\nin_channels = 1", "[vqvae]", "[stage_1]"),
        ("[codebook]\ndecay = 0.9", "[codebook]", "[vqvae]"),
    ] {
        let text = format!("{PIXELS}{table}\n");
        let error = Experiment::parse(&text, "tiny.toml", &[]).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("has {there} but no {missing}")),
            "{message}"
        );
    }
}

#[test]
fn a_pixel_space_network_has_to_fit_the_images() {
    for (overrides, words) in [
        (
            &["unet.in_channels=3"],
            &["unet.in_channels", "the images have 1 channels"][..],
        ),
        (
            &["data.size=16"],
            &["unet.sample_size", "the images are 16x16"],
        ),
    ] {
        let overrides = overrides.map(str::to_owned);
        let error = Experiment::parse(PIXELS, "tiny.toml", &overrides).unwrap_err();
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is missing in: {message}");
        }
    }
}

#[test]
fn each_command_names_the_other_one() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    for train in [stage_1, stage_2] {
        let message = train(&pixels(&[]), &options).unwrap_err().to_string();
        assert!(message.contains("`kiln train-diffusion`"), "{message}");
    }
    let error = in_pixel_space(&experiment(&[]), &options).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`kiln train-latent-diffusion`"),
        "{message}"
    );
    let left = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was begun");
}

#[test]
fn a_network_needs_a_row_for_each_class_and_one_more_for_dropped_labels() {
    let place = tempfile::tempdir().unwrap();
    for (overrides, words) in [
        (&["unet.num_class_embeds=10"][..], &["10", "must be 11"][..]),
        (&["unet.num_class_embeds=5"], &["5", "must be 11"]),
        (&["stage_2.label_dropout=0.0"], &["11", "must be 10"]),
    ] {
        let error = in_pixel_space(&pixels(overrides), &options(place.path())).unwrap_err();
        let message = error.to_string();
        for word in ["unet.num_class_embeds"].iter().chain(words) {
            assert!(message.contains(word), "`{word}` is missing in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn an_error_in_a_file_names_its_line() {
    let text = TINY.replace("channels = 1", "channels = \"one\"");
    let message = Experiment::parse(&text, "tiny.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("tiny.toml, line 6: "), "{message}");
    let unknown = TINY.replace("size = 32", "sise = 32");
    let message = Experiment::parse(&unknown, "tiny.toml", &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("tiny.toml, line 5: ") && message.contains("sise"),
        "{message}"
    );
}

#[test]
fn an_experiment_survives_its_own_toml() {
    let first = experiment(&[
        "stage_2.prediction=velocity",
        "stage_2.loss_weight.min-snr.gamma=3.0",
        "stage_2.noise_levels=uniform-noise-power",
        "stage_1.training.accumulate=3",
    ]);
    let text = first.to_toml().unwrap();
    let second = Experiment::parse(&text, "again", &[]).unwrap();
    assert_eq!(second.to_toml().unwrap(), text);
    assert_eq!(second.first_stage.unwrap().stage_1.training.accumulate, 3);
}
