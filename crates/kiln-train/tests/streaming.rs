//! Training on a data set that comes from the Hub while it goes on.

mod common;
#[path = "../../kiln-hub/tests/hub/server.rs"]
mod server;
#[path = "../../kiln-hub/tests/hub/tables.rs"]
mod tables;

use std::path::Path;
use std::time::Duration;

use common::{experiment, in_pieces, in_pixel_space, options, stage_1, stage_2, weights};
use kiln_hub::HubSettings;
use kiln_pipeline::Devices;
use kiln_train::{Experiment, RunOptions};
use server::Hub;

/// A Hub with so many tables of so many pictures each.
fn hub(tables: usize, rows: usize) -> Hub {
    let hub = Hub::start();
    hub.publish("datasets/ada/noise", &tables::tables(tables, rows, 32));
    hub
}

/// A run in `place` that fetches from `hub` into a cache of its own.
fn run(place: &Path, hub: &Hub, name: &str) -> RunOptions {
    let options = options(&place.join(name));
    RunOptions {
        hub: HubSettings {
            endpoint: hub.url.clone(),
            token: None,
            cache: place.join(format!("cache of {name}")),
            offline: false,
            pauses: vec![Duration::from_millis(1); 2],
            ..options.hub.clone()
        },
        ..options
    }
}

/// In pixel space, with the classes that the pictures have.
fn pixels(more: &[&str]) -> Experiment {
    common::pixels(&[&["unet.num_class_embeds=4"], more].concat())
}

fn on_noise(experiment: impl Fn(&[&str]) -> Experiment, more: &[&str]) -> Experiment {
    let noise = [
        "data.dataset=folder",
        "data.path=hf:ada/noise",
        "data.shuffle_buffer=3",
        "data.horizontal_flip=true",
        "data.stream=true",
    ];
    experiment(&[&noise, more].concat())
}

/// Room for two of the tables, which have about 14 kB.
const TWO: &str = "data.cache=3e-5";

#[test]
fn what_is_streamed_teaches_what_was_pulled_does() {
    let (hub, place) = (hub(6, 11), tempfile::tempdir().unwrap());
    let pulled = run(place.path(), &hub, "pulled");
    in_pixel_space(&on_noise(pixels, &["data.stream=false"]), &pulled).unwrap();
    let offline = |name: &str| RunOptions {
        hub: HubSettings {
            offline: true,
            ..pulled.hub.clone()
        },
        ..options(&place.path().join(name))
    };
    let from_disk = offline("from disk");
    in_pixel_space(&on_noise(pixels, &[]), &from_disk).unwrap();
    let expected = weights(&from_disk.out);

    for (name, room) in [("two", TWO), ("all", "data.cache=1")] {
        let streamed = run(place.path(), &hub, name);
        in_pixel_space(&on_noise(pixels, &[room]), &streamed).unwrap();
        assert!(weights(&streamed.out) == expected, "{name}");
    }
    // Stops within a table and in the second pass, with more room after one of them than before.
    let pieces = run(place.path(), &hub, "pieces");
    in_pieces(
        in_pixel_space,
        &on_noise(pixels, &[TWO]),
        &pieces,
        &[1, 3, 8],
    );
    assert!(weights(&pieces.out) == expected);
    let two = on_noise(pixels, &[TWO, "stage_2.training.batch_size=4"]);
    let halves = RunOptions {
        devices: Devices::parse("cpu:2").unwrap(),
        ..run(place.path(), &hub, "halves")
    };
    in_pixel_space(&two, &halves).unwrap();
    common::assert_close(&weights(&halves.out), &expected, "two devices");

    // A run goes on with the same files from elsewhere.
    let more = |room| on_noise(pixels, &[room, "stage_2.training.steps=12"]);
    let streamed = run(place.path(), &hub, "two");
    let resumed = RunOptions {
        resume: true,
        ..streamed.clone()
    };
    let from_disk = RunOptions {
        resume: true,
        ..offline("from disk")
    };
    in_pixel_space(&more("data.cache=1"), &resumed).unwrap();
    in_pixel_space(&more("data.cache=1"), &from_disk).unwrap();
    assert!(weights(&resumed.out) == weights(&from_disk.out));
}

#[test]
fn a_table_that_does_not_come_stops_the_training_and_it_goes_on_as_if_it_had_not() {
    let (hub, place) = (hub(16, 5), tempfile::tempdir().unwrap());
    let train = |run: &RunOptions| {
        // Four passes, with room for two of the tables.
        let more = [
            "data.cache=1.5e-5",
            "stage_2.training.steps=40",
            "stage_2.training.checkpoint_every=2",
        ];
        in_pixel_space(&on_noise(pixels, &more), run)
    };
    let whole = run(place.path(), &hub, "whole");
    train(&whole).unwrap();

    let stopped = run(place.path(), &hub, "stopped");
    // Four passes take more than that, and the first steps less.
    hub.run_out_after(Some(32));
    let sentence = train(&stopped).unwrap_err().to_string();
    assert!(
        sentence.contains("does not come") && sentence.contains("try again later"),
        "{sentence}"
    );
    assert!(!sentence.contains('\n'), "{sentence}");
    let checkpoints = stopped.out.join("diffusion/checkpoints");
    assert!(std::fs::read_dir(checkpoints).unwrap().count() > 0);
    hub.run_out_after(None);
    let resumed = RunOptions {
        resume: true,
        ..stopped
    };
    train(&resumed).unwrap();
    assert!(weights(&resumed.out) == weights(&whole.out));
}

#[test]
fn both_stages_learn_from_what_is_streamed() {
    let (hub, place) = (hub(6, 11), tempfile::tempdir().unwrap());
    let [streamed, kept] = [("streamed", TWO), ("kept", "data.cache=1")].map(|(name, room)| {
        let run = run(place.path(), &hub, name);
        let tiny = on_noise(experiment, &[room]);
        stage_1(&tiny, &run).unwrap();
        stage_2(&tiny, &run).unwrap();
        weights(&run.out)
    });
    assert!(streamed == kept);
}
