//! A stopped and resumed run ends with the weights of a run that never stopped.

mod common;

use common::{
    experiment, in_pieces, in_pixel_space, options, pixels, stage_1, stage_2, weights, with_kl,
};
use kiln_train::{RunOptions, StopSignal};

#[test]
fn both_stages_resume_bit_for_bit_from_any_step() {
    let place = tempfile::tempdir().unwrap();
    let experiment = experiment(&[]);
    let whole = options(&place.path().join("whole"));
    stage_1(&experiment, &whole).unwrap();
    stage_2(&experiment, &whole).unwrap();

    // The stops are within a round, at a round's end, and twice in one round.
    let pieces = options(&place.path().join("pieces"));
    in_pieces(stage_1, &experiment, &pieces, &[3, 4, 9]);
    in_pieces(stage_2, &experiment, &pieces, &[1, 2, 8]);

    assert!(
        weights(&whole.out) == weights(&pieces.out),
        "the weights differ"
    );
    // Both drew the picture of the last step, too.
    for picture in [
        "vqvae/reconstructions/step-0000010.png",
        "diffusion/samples/step-0000010.png",
    ] {
        let read = |options: &RunOptions| std::fs::read(options.out.join(picture)).unwrap();
        assert!(read(&whole) == read(&pieces), "{picture} differs");
    }
}

/// At every kind of step: before the discriminator learns, while it learns alone, while its weight rises.
#[test]
fn a_first_stage_with_a_discriminator_resumes_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let adversarial = r#"stage_1.adversarial={
        weight = { balanced = 0.5 }, start = 4, head_start = "20%", ramp = "50%", lecam = 0.1,
        augmentation = ["translation"], discriminator = { channels = 8, layers = 1 }
    }"#;
    let with = experiment(&[adversarial]);
    let whole = options(&place.path().join("whole"));
    stage_1(&with, &whole).unwrap();
    let pieces = options(&place.path().join("pieces"));
    in_pieces(stage_1, &with, &pieces, &[1, 3, 6, 9]);
    assert!(weights(&whole.out) == weights(&pieces.out));
    let metrics = std::fs::read_to_string(whole.out.join("vqvae/metrics.csv")).unwrap();
    assert!(metrics.contains("discriminator accuracy/valid"));

    let without = options(&place.path().join("without"));
    stage_1(&experiment(&[]), &without).unwrap();
    assert!(
        weights(&whole.out) != weights(&without.out),
        "the term does not count"
    );
}

#[test]
fn both_stages_with_an_autoencoder_kl_resume_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let experiment = with_kl(&[]);
    let whole = options(&place.path().join("whole"));
    stage_1(&experiment, &whole).unwrap();
    stage_2(&experiment, &whole).unwrap();
    let pieces = options(&place.path().join("pieces"));
    in_pieces(stage_1, &experiment, &pieces, &[3, 4, 9]);
    in_pieces(stage_2, &experiment, &pieces, &[1, 2, 8]);
    assert!(weights(&whole.out) == weights(&pieces.out));
    let metrics = std::fs::read_to_string(whole.out.join("vqvae/metrics.csv")).unwrap();
    let header = metrics.lines().next().unwrap();
    assert!(header.contains("kl/train") && header.contains("kl/valid"));
    assert!(!header.contains("code"), "{header}");
}

#[test]
fn what_a_stop_left_of_a_validation_is_done_first() {
    let place = tempfile::tempdir().unwrap();
    // On more devices each of them waits for it.
    for devices in ["cpu", "cpu:2"] {
        let out = |name: &str| RunOptions {
            devices: kiln_pipeline::Devices::parse(devices).unwrap(),
            ..options(&place.path().join(devices).join(name))
        };
        let experiment = experiment(&["stage_1.training.pictures_every=1"]);
        let (whole, pieces) = (out("whole"), out("pieces"));
        stage_1(&experiment, &whole).unwrap();
        in_pieces(stage_1, &experiment, &pieces, &[4, 8, 10]);
        for file in [
            "metrics.csv",
            "reconstructions/step-0000004.png",
            "reconstructions/step-0000008.png",
            "reconstructions/step-0000010.png",
            "model/diffusion_pytorch_model.safetensors",
        ] {
            let read = |run: &RunOptions| std::fs::read(run.out.join("vqvae").join(file)).unwrap();
            assert!(read(&whole) == read(&pieces), "{devices}: {file} differs");
        }
    }
}

#[test]
fn pixel_space_with_classes_and_both_dropouts_resumes_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let settings = |labels: &str, units: &str| {
        let dropouts = [
            format!("stage_2.label_dropout={labels}"),
            format!("unet.dropout={units}"),
        ];
        pixels(&[&dropouts[0], &dropouts[1], "data.horizontal_flip=true"])
    };
    let experiment = settings("0.5", "0.2");
    let whole = options(&place.path().join("whole"));
    in_pixel_space(&experiment, &whole).unwrap();
    let pieces = options(&place.path().join("pieces"));
    in_pieces(in_pixel_space, &experiment, &pieces, &[3, 4, 9]);
    assert!(
        weights(&whole.out) == weights(&pieces.out),
        "the weights differ"
    );

    // Both matter; otherwise the test would not cover them.
    for (name, labels, units) in [("labels", "0.2", "0.2"), ("units", "0.5", "0.1")] {
        let others = options(&place.path().join(name));
        in_pixel_space(&settings(labels, units), &others).unwrap();
        assert!(weights(&whole.out) != weights(&others.out), "{name}");
    }
}

#[test]
fn latents_with_classes_resume_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let experiment = experiment(&["unet.num_class_embeds=11", "stage_2.label_dropout=0.3"]);
    let whole = options(&place.path().join("whole"));
    stage_1(&experiment, &whole).unwrap();
    stage_2(&experiment, &whole).unwrap();
    let pieces = RunOptions {
        vqvae: Some(whole.out.join("model")),
        ..options(&place.path().join("pieces"))
    };
    in_pieces(stage_2, &experiment, &pieces, &[1, 7]);
    // The first run has the VQ-VAE's weights, too.
    assert!(weights(&whole.out).ends_with(&weights(&pieces.out)));
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let experiment = experiment(&[]);
    let whole = options(&place.path().join("whole"));
    stage_1(&experiment, &whole).unwrap();

    let damaged = options(&place.path().join("damaged"));
    stage_1(
        &experiment,
        &RunOptions {
            stop: StopSignal::before_step(9),
            ..damaged.clone()
        },
    )
    .unwrap();
    std::fs::write(
        damaged.out.join("vqvae/checkpoints/step-0000009/model.bpk"),
        "cut off",
    )
    .unwrap();
    stage_1(
        &experiment,
        &RunOptions {
            resume: true,
            ..damaged.clone()
        },
    )
    .unwrap();
    assert!(weights(&whole.out) == weights(&damaged.out));
}

#[test]
fn a_finished_run_can_be_resumed_to_learn_longer_and_no_other_way() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    stage_1(&experiment(&[]), &options).unwrap();

    let again = stage_1(&experiment(&[]), &options).unwrap_err().to_string();
    assert!(
        again.contains("--resume") && again.contains("--out"),
        "{again}"
    );

    let resumed = RunOptions {
        resume: true,
        ..options.clone()
    };
    let report = stage_1(&experiment(&["stage_1.training.steps=14"]), &resumed).unwrap();
    assert_eq!(report.steps, 14);

    let other = stage_1(&experiment(&["vqvae.num_vq_embeddings=8"]), &resumed)
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("`vqvae.num_vq_embeddings` is 8, and was 16"),
        "{other}"
    );
}

#[test]
fn a_checkpoint_of_another_version_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let stopped = RunOptions {
        stop: StopSignal::before_step(2),
        ..options.clone()
    };
    stage_1(&experiment(&[]), &stopped).unwrap();
    let manifest = place
        .path()
        .join("vqvae/checkpoints/step-0000002/checkpoint.json");
    common::edit_manifest(&manifest, |text| {
        text.replace(env!("CARGO_PKG_VERSION"), "9.8.7")
    });
    let resumed = RunOptions {
        resume: true,
        ..options
    };
    let message = stage_1(&experiment(&[]), &resumed).unwrap_err().to_string();
    assert!(message.contains("kiln 9.8.7"), "{message}");
}

#[test]
fn metrics_of_a_resumed_run_have_one_row_a_round() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    in_pieces(stage_1, &experiment(&[]), &options, &[4]);
    let csv = std::fs::read_to_string(place.path().join("vqvae/metrics.csv")).unwrap();
    let steps: Vec<&str> = csv
        .lines()
        .map(|line| line.split(',').next().unwrap())
        .collect();
    assert_eq!(steps, ["step", "4", "8", "10"]);
    let header = csv.lines().next().unwrap();
    for column in [
        "loss/train",
        "loss/valid",
        "psnr/valid",
        "perplexity/valid",
        "codes in use/valid",
    ] {
        assert!(
            header.split(',').any(|name| name == column),
            "{column} is missing in {header}"
        );
    }
}

/// The network whose features are compared is part of a run, but its file may move.
#[test]
fn a_run_goes_on_only_with_its_perceptual_network() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    for (seed, name) in [(1, "one.safetensors"), (2, "other.safetensors")] {
        common::save_classifier(&file(name), seed);
    }
    let with = |name: &str| {
        let path = file(name).display().to_string();
        let set =
            format!("stage_1.perceptual={{weight=0.5,network=\"classifier\",weights=\"{path}\"}}");
        experiment(&[&set])
    };
    let whole = options(&file("whole"));
    stage_1(&with("one.safetensors"), &whole).unwrap();
    let pieces = RunOptions {
        stop: StopSignal::before_step(5),
        ..options(&file("pieces"))
    };
    stage_1(&with("one.safetensors"), &pieces).unwrap();
    let resumed = RunOptions {
        resume: true,
        ..options(&file("pieces"))
    };
    let refused = stage_1(&with("other.safetensors"), &resumed)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("not those that this run began with"),
        "{refused}"
    );
    std::fs::copy(file("one.safetensors"), file("moved.safetensors")).unwrap();
    stage_1(&with("moved.safetensors"), &resumed).unwrap();
    assert!(weights(&whole.out) == weights(&pieces.out));
    let without = options(&file("without"));
    stage_1(&experiment(&[]), &without).unwrap();
    assert!(weights(&whole.out) != weights(&without.out));
}
