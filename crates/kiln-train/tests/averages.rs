//! Averages of the weights whose length is chosen after training.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use common::{in_pieces, in_pixel_space, options, pixels, weights_of};
use kiln_models::load_weights;
use kiln_train::{RunRecord, load_model};

const AVERAGES: &str = "stage_2.power_averages=[0.05,0.10]";

/// The files of kept averages, by name.
fn kept(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(run.join("diffusion/averages")).unwrap();
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn any_length_is_made_of_what_a_run_kept() {
    let place = tempfile::tempdir().unwrap();
    let run = options(place.path());
    in_pixel_space(&pixels(&[AVERAGES]), &run).unwrap();
    let files: Vec<String> = kept(&run.out).into_keys().collect();
    let expected = [4, 8, 10].iter().flat_map(|step| {
        ["0.05", "0.1"].map(|length| format!("step-{step:07}-length-{length}.safetensors"))
    });
    assert_eq!(files, expected.collect::<Vec<_>>());

    let device = Device::flex();
    let averaged = |length, steps| RunRecord::averaged(&run.out, length, steps, &device);
    let apart = |one: &[f32], other: &[f32]| {
        let pairs = one.iter().zip(other);
        pairs
            .map(|(one, other)| (one - other).abs())
            .fold(0.0, f32::max)
    };
    // A kept average is itself.
    for (length, steps, file) in [
        (0.05, None, "step-0000010-length-0.05"),
        (0.10, None, "step-0000010-length-0.1"),
        (0.10, Some(4), "step-0000004-length-0.1"),
    ] {
        let model = averaged(length, steps).unwrap();
        let path = run
            .out
            .join(format!("diffusion/averages/{file}.safetensors"));
        let network = load_weights(model.unet.clone(), &path).unwrap();
        let difference = apart(&weights_of(&model.unet), &weights_of(&network));
        assert!(difference < 1e-5, "{file}: {difference}");
    }
    // A shorter one is nearer to the last weights than a longer one, and all are others.
    let last = run.out.join("diffusion/checkpoints/step-0000010");
    let last = weights_of(&load_model(&last, &device).unwrap().unet);
    let distances = [0.03, 0.05, 0.07, 0.10, 0.2].map(|length| {
        let model = averaged(length, None).unwrap();
        assert_eq!(
            model.metadata.training["average_length"],
            length.to_string()
        );
        apart(&weights_of(&model.unet), &last)
    });
    assert!(
        distances[1..4].iter().all(|&distance| distance > 0.0),
        "{distances:?}"
    );
    assert!(distances[4] > distances[0], "{distances:?}");

    for (length, steps, words) in [
        (0.3, None, "below 0.289"),
        (0.01, None, "misses it by 58%"),
        (0.05, Some(9), "or a step of which averages were kept"),
        (0.1, Some(11), "between 1 and 10"),
        (0.1, Some(0), "between 1 and 10"),
    ] {
        let sentence = averaged(length, steps).unwrap_err().to_string();
        assert!(sentence.contains(words), "{sentence}");
    }
    let nothing = RunRecord::averaged(&place.path().join("nowhere"), 0.1, None, &device);
    assert!(
        nothing
            .unwrap_err()
            .to_string()
            .contains("there is no run folder")
    );
    let damaged = run
        .out
        .join("diffusion/averages/step-0000004-length-0.1.safetensors");
    std::fs::write(&damaged, "cut").unwrap();
    let sentence = averaged(0.1, None).unwrap_err().to_string();
    assert!(sentence.contains("step-0000004-length-0.1"), "{sentence}");
}

#[test]
fn what_is_kept_does_not_depend_on_stops() {
    let place = tempfile::tempdir().unwrap();
    let experiment = pixels(&[AVERAGES]);
    let (whole, pieces) = ("whole", "pieces");
    let [whole, pieces] = [whole, pieces].map(|name| options(&place.path().join(name)));
    in_pixel_space(&experiment, &whole).unwrap();
    in_pieces(in_pixel_space, &experiment, &pieces, &[3, 4, 9]);
    assert!(kept(&whole.out) == kept(&pieces.out));
    // The averages change nothing else.
    let without = options(&place.path().join("without"));
    in_pixel_space(&pixels(&[]), &without).unwrap();
    assert!(common::weights(&without.out) == common::weights(&whole.out));
}
