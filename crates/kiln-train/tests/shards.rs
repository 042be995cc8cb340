//! Training on shards that are read while it goes on.

mod common;

use std::io::Cursor;
use std::path::Path;

use common::{experiment, in_pieces, in_pixel_space, options, pixels, stage_1, stage_2, weights};
use image::{GrayImage, ImageFormat, Luma};
use kiln_pipeline::Devices;
use kiln_train::{Experiment, RunOptions};

/// Five shards of 13 pictures with a class each.
fn shards(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for shard in 0..5u8 {
        let file = std::fs::File::create(folder.join(format!("part-{shard}.tar"))).unwrap();
        let mut tar = tar::Builder::new(file);
        for number in 0..13u8 {
            let level = 13 * shard + number;
            let picture = GrayImage::from_fn(32, 32, |x, y| Luma([level * 3 + (x + 2 * y) as u8]));
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            let class = (level % 10).to_string().into_bytes();
            for (ending, bytes) in [("png", bytes.into_inner()), ("cls", class)] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                header.set_cksum();
                let name = format!("{number:03}.{ending}");
                tar.append_data(&mut header, name, &bytes[..]).unwrap();
            }
        }
        tar.finish().unwrap();
    }
}

fn on_shards(
    experiment: impl Fn(&[&str]) -> Experiment,
    place: &Path,
    more: &[&str],
) -> Experiment {
    let path = format!("data.path={:?}", place.join("set").display().to_string());
    let shards = [
        "data.dataset=folder",
        &path,
        "data.shuffle_buffer=7",
        "data.horizontal_flip=true",
    ];
    experiment(&[&shards, more].concat())
}

#[test]
fn shards_teach_the_same_as_the_same_order_in_memory_and_a_stop_in_mid_shard_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    shards(&place.path().join("set"));
    let out = |name: &str| options(&place.path().join(name));
    let train = |name: &str, more: &[&str]| {
        let run = out(name);
        in_pixel_space(&on_shards(pixels, place.path(), more), &run).unwrap();
        weights(&run.out)
    };
    let streamed = train("streamed", &[]);
    assert!(streamed == train("kept", &["data.stream=false"]));
    assert!(streamed != train("other order", &["data.shuffle_buffer=3"]));
    // Two passes of 58 images in steps of 8: the stops are within a shard and in the second pass.
    let pieces = out("pieces");
    in_pieces(
        in_pixel_space,
        &on_shards(pixels, place.path(), &[]),
        &pieces,
        &[1, 3, 8],
    );
    assert!(streamed == weights(&pieces.out));
    let halves = RunOptions {
        devices: Devices::parse("cpu:2").unwrap(),
        ..out("halves")
    };
    let two = on_shards(pixels, place.path(), &["stage_2.training.batch_size=4"]);
    in_pixel_space(&two, &halves).unwrap();
    common::assert_close(&weights(&halves.out), &streamed, "two devices");
}

#[test]
fn a_moved_set_goes_on_and_a_changed_one_does_not() {
    let place = tempfile::tempdir().unwrap();
    shards(&place.path().join("set"));
    let run = options(&place.path().join("run"));
    in_pixel_space(&on_shards(pixels, place.path(), &[]), &run).unwrap();
    let elsewhere = place.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(place.path().join("set"), elsewhere.join("set")).unwrap();
    let resumed = RunOptions {
        resume: true,
        data_is_named: true,
        ..run
    };
    let steps = |count| format!("stage_2.training.steps={count}");
    in_pixel_space(&on_shards(pixels, &elsewhere, &[&steps(11)]), &resumed).unwrap();
    std::fs::remove_file(elsewhere.join("set/part-3.tar")).unwrap();
    let refused = in_pixel_space(&on_shards(pixels, &elsewhere, &[&steps(12)]), &resumed);
    let sentence = refused.unwrap_err().to_string();
    assert!(sentence.contains("images"), "{sentence}");
}

#[test]
fn both_stages_learn_from_shards_and_latents_may_have_half_the_size() {
    let place = tempfile::tempdir().unwrap();
    shards(&place.path().join("set"));
    let whole = options(&place.path().join("whole"));
    let with = |more: &[&str]| on_shards(experiment, place.path(), more);
    stage_1(&with(&[]), &whole).unwrap();
    stage_2(&with(&[]), &whole).unwrap();
    let half = RunOptions {
        vqvae: Some(whole.out.join("vqvae/model")),
        ..options(&place.path().join("half"))
    };
    stage_2(&with(&["stage_2.latents=f16"]), &half).unwrap();
    let bytes = |run: &RunOptions| -> u64 {
        let folder = std::fs::read_dir(run.out.join("latents")).unwrap().next();
        let file = folder
            .unwrap()
            .unwrap()
            .path()
            .join("train-00000.safetensors");
        std::fs::metadata(file).unwrap().len()
    };
    let (full, halved) = (bytes(&whole), bytes(&half));
    assert!(halved < full * 6 / 10, "{halved} of {full} bytes");
    assert!(!weights(&whole.out).ends_with(&weights(&half.out)));
}
