//! Stage 1 with every quantizer: stopped and resumed, and on two devices.

mod common;

use common::{assert_close, experiment, in_pieces, options, stage_1, weights};
use kiln_pipeline::Devices;
use kiln_train::RunOptions;

const CHOICES: [&[&str]; 6] = [
    &["vqvae.quantizer={fsq={levels=[5,4]}}"],
    &["vqvae.quantizer=simvq"],
    &["vqvae.quantizer={residual={tables=3}}"],
    &[
        "vqvae.quantizer={residual={tables=2}}",
        "codebook.update=gradient",
        "codebook.gradient=rotation",
    ],
    &["vqvae.quantizer=simvq", "codebook.gradient=rotation"],
    &["codebook.gradient=rotation"],
];

#[test]
fn each_resumes_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let mut before = Vec::new();
    for (index, choice) in CHOICES.into_iter().enumerate() {
        let experiment = experiment(choice);
        let whole = options(&place.path().join(format!("whole-{index}")));
        stage_1(&experiment, &whole).unwrap();
        let pieces = options(&place.path().join(format!("pieces-{index}")));
        in_pieces(stage_1, &experiment, &pieces, &[3, 4]);
        let trained = weights(&whole.out);
        assert!(trained == weights(&pieces.out), "{choice:?}");
        // The choice matters; otherwise this would not cover it.
        assert!(!before.contains(&trained), "{choice:?}");
        before.push(trained);
    }
}

#[test]
fn each_is_the_same_on_two_devices() {
    let place = tempfile::tempdir().unwrap();
    for (index, choice) in CHOICES.into_iter().enumerate() {
        let trained = |devices: &str, batch_size: &str| {
            let out = place.path().join(format!("{devices}-{index}"));
            let options = RunOptions {
                devices: Devices::parse(devices).unwrap(),
                ..options(&out)
            };
            let experiment = experiment(&[choice, &[batch_size]].concat());
            stage_1(&experiment, &options).unwrap();
            weights(&out)
        };
        let one = trained("cpu", "stage_1.training.batch_size=8");
        let two = trained("cpu:2", "stage_1.training.batch_size=4");
        assert_close(&two, &one, choice);
    }
}
