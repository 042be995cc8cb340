//! Data sets on the Hub, in the form of Python's `datasets`: see `tests/fixtures/tables`.

use std::fs;
use std::path::Path;

use kiln_data::{DataConfig, DatasetKind, Datasets, NoProgress};
use kiln_hub::{HubSettings, open_data_set};

use crate::server::{Files, Hub};
use crate::settings;

/// A Hub with the data set `ada/grays`, and settings for it.
struct Scene {
    hub: Hub,
    settings: HubSettings,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let hub = Hub::start();
        hub.publish("datasets/ada/grays", &tables());
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&hub, folder.path());
        Self {
            hub,
            settings,
            _folder: folder,
        }
    }

    fn open(&self, path: &str) -> Result<Datasets, String> {
        let config = DataConfig {
            path: Some(path.into()),
            ..DataConfig::new(DatasetKind::Folder, 8, 1)
        };
        open_data_set(&config, &self.settings, &NoProgress).map_err(|error| error.to_string())
    }
}

fn tables() -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tables");
    let mut files = Files::from([("README.md".to_owned(), b"# Grays".to_vec())]);
    for name in [
        "train-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
    ] {
        files.insert(format!("data/{name}"), fs::read(folder.join(name)).unwrap());
    }
    files
}

/// The gray of each image, and its label.
fn rows(set: &kiln_data::ImageDataset) -> Vec<(u8, Option<usize>)> {
    let gray = |index| ((set.image(index, false).unwrap()[0] + 1.0) * 127.5).round() as u8;
    let rows = 0..set.len();
    rows.map(|index| (gray(index), set.label(index))).collect()
}

/// The rows that `make.py` wrote.
fn expected(first: u8, count: u8) -> Vec<(u8, Option<usize>)> {
    let rows = 0..count;
    rows.map(|row| (first + row, Some(usize::from(row % 3 == 0))))
        .collect()
}

#[test]
fn images_labels_and_names_are_those_that_python_wrote() {
    let scene = Scene::new();
    let datasets = scene.open("hf:ada/grays").unwrap();
    assert_eq!(rows(&datasets.train), expected(10, 30));
    assert_eq!(rows(&datasets.validation), expected(200, 6));
    assert_eq!(datasets.train.class_names(), ["even", "odd"]);
    assert_eq!(datasets.train.name(), "ada/grays");
    // Only the tables were fetched, and only once.
    let count = |part: &str| {
        scene
            .hub
            .requests()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    };
    assert_eq!(count("GET /cdn/"), 2);
    scene.open("hf:ada/grays@main").unwrap();
    assert_eq!(count("GET /cdn/"), 0);
}

#[test]
fn of_one_split_a_share_is_held_out() {
    let mut scene = Scene::new();
    let datasets = scene.open("hf:ada/grays:test").unwrap();
    assert_eq!((datasets.train.len(), datasets.validation.len()), (5, 1));
    scene.settings.offline = true;
    assert_eq!(scene.open("hf:ada/grays:test").unwrap().train.len(), 5);
    let sentence = scene.open("hf:ada/grays:train").unwrap_err();
    assert!(
        sentence.contains("does not have a split `train` of ada/grays"),
        "{sentence}"
    );
}

#[test]
fn no_byte_of_an_image_can_change() {
    let scene = Scene::new();
    let name = "data/test-00000-of-00001.parquet";
    let mut files = tables();
    // The first page with PNGs.
    let png = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"IDAT");
    let table = files.get_mut(name).unwrap();
    let at = png(table).unwrap() + 8;
    table[at] ^= 1;
    scene.hub.publish("datasets/ada/flipped", &files);
    let sentence = scene.open("hf:ada/flipped").unwrap_err();
    assert!(
        sentence.contains("test-00000-of-00001.parquet"),
        "{sentence}"
    );
    assert!(sentence.contains("checksum"), "{sentence}");
}

#[test]
fn what_is_not_there_is_named() {
    let scene = Scene::new();
    scene.hub.publish(
        "datasets/ada/words",
        &Files::from([("words.csv".to_owned(), vec![])]),
    );
    let mut damaged = tables();
    damaged.insert(
        "data/train-00000-of-00001.parquet".to_owned(),
        b"PAR1".to_vec(),
    );
    scene.hub.publish("datasets/ada/damaged", &damaged);
    for (path, words) in [
        ("hf:grays", "write ORG/REPO"),
        ("hf:ada/nothing", "no repository ada/nothing"),
        ("hf:ada/grays:dev", "lacks a split `dev`"),
        ("hf:ada/words", "lacks images in Parquet files"),
        ("hf:ada/damaged", "train-00000-of-00001.parquet"),
    ] {
        let sentence = scene.open(path).unwrap_err();
        assert!(sentence.contains(words), "{path}: {sentence}");
    }
}
