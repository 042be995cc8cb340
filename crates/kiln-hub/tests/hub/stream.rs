//! Data sets that come from the Hub while they are used.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kiln_data::{
    DataConfig, DatasetKind, Datasets, ImageBatch, ImageDataset, NoProgress, prefetch,
};
use kiln_hub::{HubSettings, TransportError, open_data_set};

use crate::server::{Fault, Files, Hub, sha256};
use crate::settings;
use crate::tables::tables;

const SET: &str = "datasets/ada/noise";
const GIB: f64 = (1u64 << 30) as f64;

/// A Hub with a data set of six tables of about 320 kB with 20 pictures each, and settings for it.
struct Scene {
    hub: Hub,
    files: Files,
    settings: HubSettings,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let hub = Hub::start();
        let files = tables(6, 20, 128);
        hub.publish(SET, &files);
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&hub, folder.path());
        Self {
            hub,
            files,
            settings,
            folder,
        }
    }

    fn config(stream: Option<bool>) -> DataConfig {
        DataConfig {
            path: Some("hf:ada/noise".into()),
            stream,
            // Each picture moves by few places, so that a table is done with when the next but one comes.
            shuffle_buffer: 4,
            ..DataConfig::new(DatasetKind::Folder, 128, 1)
        }
    }

    /// Opens the set, with room for so many bytes of files.
    fn stream(&self, room: usize) -> Result<Datasets, TransportError> {
        let config = DataConfig {
            cache: Some(room as f64 / GIB),
            ..Self::config(Some(true))
        };
        open_data_set(&config, &self.settings, &NoProgress)
    }

    /// Opens the set from files that were all fetched before, in another cache.
    fn pulled(&self) -> Datasets {
        let settings = HubSettings {
            cache: self.folder.path().join("pulled"),
            ..self.settings.clone()
        };
        open_data_set(&Self::config(None), &settings, &NoProgress).unwrap();
        let offline = HubSettings {
            offline: true,
            ..settings
        };
        open_data_set(&Self::config(Some(true)), &offline, &NoProgress).unwrap()
    }

    fn largest(&self) -> usize {
        self.files.values().map(Vec::len).max().unwrap()
    }

    fn shelf(&self) -> PathBuf {
        self.settings.cache.join(".kiln")
    }

    /// The names and sizes of the files that came, or are coming with their size in the end.
    fn kept(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.shelf()).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let digits = name.split('.').next().unwrap();
            let size = entry.metadata().ok()?.len();
            (digits.len() == 64).then_some((name, size))
        });
        kept.collect()
    }

    /// How many times a file was asked for as a whole, or from some byte to its end.
    fn fetches(requests: &[String]) -> usize {
        let is_fetch = |line: &&String| line.starts_with("GET /cdn/") && !line.contains(" part ");
        requests.iter().filter(is_fetch).count()
    }
}

/// Two passes over a set as a training makes them.
fn seen(set: &ImageDataset, from: usize) -> Vec<ImageBatch> {
    let (passes, images) = (set.passes(), set.len());
    let places: Vec<usize> = (from..2 * images).collect();
    let mut orders = [passes.order(7, 0), passes.order(7, 1)];
    let requests: Vec<Vec<usize>> = places.chunks(5).map(<[_]>::to_vec).collect();
    let requests = requests.into_iter().map(move |places| {
        let image = |place: usize| orders[place / images].image(place % images);
        places
            .into_iter()
            .map(image)
            .map(|image| (image, image % 2 == 0))
            .collect()
    });
    prefetch(set.clone(), requests)
        .map(Result::unwrap)
        .collect()
}

fn problem(set: &ImageDataset) -> String {
    let requests: Vec<Vec<(u32, bool)>> = (0..set.len() as u32)
        .map(|image| vec![(image, false)])
        .collect();
    let outcome: Result<Vec<ImageBatch>, _> = prefetch(set.clone(), requests.into_iter()).collect();
    outcome.unwrap_err().to_string()
}

#[test]
fn what_is_streamed_is_what_was_pulled() {
    let scene = Scene::new();
    let pulled = scene.pulled();
    for room in [scene.largest(), 3 * scene.largest(), 1 << 30] {
        let streamed = scene.stream(room).unwrap();
        for (streamed, pulled) in [
            (&streamed.train, &pulled.train),
            (&streamed.validation, &pulled.validation),
        ] {
            assert_eq!(streamed.fingerprint(), pulled.fingerprint());
            assert_eq!(streamed.class_names(), pulled.class_names());
            assert_eq!(streamed.passes(), pulled.passes());
            assert!(seen(streamed, 0) == seen(pulled, 0), "room for {room}");
            // As a training that goes on in the middle.
            assert!(seen(streamed, 57) == seen(pulled, 57), "room for {room}");
        }
    }
}

#[test]
fn only_footers_and_classes_come_before_the_training() {
    let scene = Scene::new();
    let all: usize = scene.files.values().map(Vec::len).sum();
    let streamed = scene.stream(1 << 30).unwrap();
    assert_eq!(streamed.train.len() + streamed.validation.len(), 120);
    assert_eq!(streamed.train.class_names(), ["a", "b", "c"]);
    let sent = scene.hub.sent();
    assert!(sent < 6 * (66 << 10), "{sent} of {all} bytes");
    assert_eq!(Scene::fetches(&scene.hub.requests()), 0);
    assert_eq!(scene.kept(), []);
}

#[test]
fn a_set_that_has_room_comes_once() {
    let scene = Scene::new();
    let streamed = scene.stream(1 << 30).unwrap();
    seen(&streamed.train, 0);
    seen(&streamed.validation, 0);
    assert_eq!(Scene::fetches(&scene.hub.requests()), 6);
    assert_eq!(scene.kept().len(), 6);
    let names: Vec<String> = scene.files.values().map(|bytes| sha256(bytes)).collect();
    assert!(scene.kept().iter().all(|(name, _)| names.contains(name)));
    drop(streamed);
    // Nor does it come again for the next program, except for what says what is in it.
    seen(&scene.stream(1 << 30).unwrap().train, 0);
    assert_eq!(Scene::fetches(&scene.hub.requests()), 0);
}

#[test]
fn the_cache_never_exceeds_its_bound() {
    let scene = Scene::new();
    let bound = 2 * scene.largest();
    let streamed = scene.stream(bound).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Nothing is taken away, or begun, while it is held.
                let lock = fs::File::open(scene.shelf().join("lock"));
                let _held = lock.map(|lock| lock.lock().map(|()| lock));
                let kept = scene.kept();
                let taken: u64 = kept.iter().map(|(_, size)| size).sum();
                assert!(taken <= bound as u64, "{kept:?}");
            }
        });
        scope.spawn(|| {
            seen(&streamed.train, 0);
            done.store(true, Ordering::Relaxed);
        });
    });
    assert!(Scene::fetches(&scene.hub.requests()) > 6, "some came again");
}

#[test]
fn a_cache_that_holds_no_file_is_refused() {
    let scene = Scene::new();
    let sentence = scene.stream(scene.largest() - 1).unwrap_err().to_string();
    assert!(
        sentence.contains("data.cache = 0.000") && sentence.contains("--set data.cache=0.001"),
        "{sentence}"
    );
    assert_eq!(scene.hub.sent(), 0);
}

#[test]
fn a_server_that_stalls_or_cuts_is_asked_again() {
    for fault in [
        Fault::StallAfter(1000),
        Fault::CutAfter(1000),
        Fault::Status(503, &[]),
        Fault::Status(404, &[]),
        Fault::Corrupt,
        Fault::Page,
    ] {
        let mut scene = Scene::new();
        let pulled = scene.pulled();
        if matches!(fault, Fault::StallAfter(_)) {
            scene.settings.patience = Duration::from_secs(1);
        }
        // In the parts at the beginning, and later in whole files.
        scene.hub.misbehave("GET /cdn/", fault.clone(), 2);
        let streamed = scene.stream(2 * scene.largest());
        let streamed = match (&fault, streamed) {
            // No checksum is known for a part: what is wrong with it is found by its own checks, or when the file comes.
            (Fault::Corrupt | Fault::Page, Err(_)) => scene.stream(2 * scene.largest()).unwrap(),
            (_, streamed) => streamed.unwrap(),
        };
        scene.hub.misbehave("GET /cdn/", fault.clone(), 3);
        assert!(
            seen(&streamed.train, 0) == seen(&pulled.train, 0),
            "{fault:?}"
        );
    }
}

#[test]
fn a_file_that_never_comes_stops_the_training_and_it_goes_on_later() {
    let scene = Scene::new();
    let streamed = scene.stream(1 << 30).unwrap();
    // The first file comes, and the others do not.
    let first = sha256(&scene.files["data/train-00000-of-00006.parquet"]);
    let is_other = |bytes: &&Vec<u8>| sha256(bytes) != first;
    for bytes in scene.files.values().filter(is_other) {
        let path: &'static str = format!("GET /cdn/{}", sha256(bytes)).leak();
        scene.hub.misbehave(path, Fault::Status(404, &[]), 100);
    }
    let sentence = problem(&streamed.train);
    assert!(
        sentence.starts_with("data/train-0000") && sentence.contains("does not come"),
        "{sentence}"
    );
    assert!(sentence.contains("try again later"), "{sentence}");
    // Nothing counts as damaged, so that no other image ever takes its place.
    assert!(!sentence.contains("max_undecodable"), "{sentence}");
    assert!(scene.kept().iter().all(|(name, _)| *name == first));
    // Later, and from another server, it goes on.
    let mut other = Scene::new();
    let pulled = other.pulled();
    other.settings.cache.clone_from(&scene.settings.cache);
    let again = other.stream(1 << 30).unwrap();
    assert_eq!(again.train.fingerprint(), streamed.train.fingerprint());
    assert!(seen(&again.train, 0) == seen(&pulled.train, 0));
}

#[test]
fn a_server_without_ranges_is_told() {
    let scene = Scene::new();
    scene.hub.misbehave("GET /cdn/", Fault::Whole, 100);
    let sentence = scene.stream(1 << 30).unwrap_err().to_string();
    assert!(
        sentence.contains("does not send parts of files")
            && sentence.contains("leave data.stream out"),
        "{sentence}"
    );
    // Nothing but a part was read of what it sent.
    assert_eq!(scene.kept(), []);
}

#[test]
fn a_file_of_another_length_is_refused() {
    let scene = Scene::new();
    scene.hub.misbehave("GET /cdn/", Fault::OtherLength, 100);
    let sentence = scene.stream(1 << 30).unwrap_err().to_string();
    assert!(sentence.contains("but lists it with"), "{sentence}");
}

#[test]
fn what_changed_in_the_cache_comes_again_and_what_was_cut_goes_on() {
    let scene = Scene::new();
    let pulled = scene.pulled();
    seen(&scene.stream(1 << 30).unwrap().train, 0);
    scene.hub.requests();
    let kept = scene.kept();
    let (changed, cut) = (&kept[0].0, &kept[1]);
    let path = scene.shelf().join(changed);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    // A program that was killed left half of one.
    let half = fs::read(scene.shelf().join(&cut.0)).unwrap()[..cut.1 as usize / 2].to_vec();
    fs::remove_file(scene.shelf().join(&cut.0)).unwrap();
    let partial = format!("{}.{}.incomplete", cut.0, cut.1);
    fs::write(scene.shelf().join(partial), &half).unwrap();
    let streamed = scene.stream(1 << 30).unwrap();
    assert!(seen(&streamed.train, 0) == seen(&pulled.train, 0));
    let requests = scene.hub.requests();
    assert_eq!(Scene::fetches(&requests), 2, "{requests:?}");
    let rest = format!("GET /cdn/{} from {}", cut.0, half.len());
    assert!(requests.contains(&rest), "{requests:?}");
}

#[test]
fn another_commit_in_mid_training_changes_nothing() {
    let scene = Scene::new();
    let pulled = scene.pulled();
    let streamed = scene.stream(2 * scene.largest()).unwrap();
    let other = scene.hub.publish(SET, &tables(6, 21, 128));
    assert!(seen(&streamed.train, 0) == seen(&pulled.train, 0));
    let requests = scene.hub.requests();
    assert!(!requests.iter().any(|line| line.contains(&other)));
    // The next run sees that it is another set.
    let now = scene.stream(1 << 30).unwrap();
    assert_ne!(now.train.fingerprint(), streamed.train.fingerprint());
}

#[test]
fn what_was_pulled_is_used() {
    let scene = Scene::new();
    open_data_set(&Scene::config(None), &scene.settings, &NoProgress).unwrap();
    scene.hub.requests();
    let streamed = scene.stream(1 << 30).unwrap();
    seen(&streamed.train, 0);
    assert_eq!(Scene::fetches(&scene.hub.requests()), 0);
    assert_eq!(scene.kept(), []);
    // And it is all there is without a network.
    let offline = HubSettings {
        endpoint: "http://127.0.0.1:9".to_owned(),
        ..scene.settings.clone()
    };
    let cached = open_data_set(&Scene::config(Some(true)), &offline, &NoProgress).unwrap();
    assert_eq!(cached.train.fingerprint(), streamed.train.fingerprint());
    let nothing = HubSettings {
        cache: scene.folder.path().join("nothing"),
        ..offline
    };
    let sentence = open_data_set(&Scene::config(Some(true)), &nothing, &NoProgress);
    assert!(sentence.unwrap_err().to_string().contains("cannot reach"));
}

#[test]
fn two_trainings_share_what_came() {
    let scene = Scene::new();
    let expected = seen(&scene.pulled().train, 0);
    scene.hub.requests();
    let sets = [0, 1].map(|_| scene.stream(1 << 30).unwrap().train);
    thread::scope(|scope| {
        let both = sets.each_ref().map(|set| scope.spawn(|| seen(set, 0)));
        for seen in both {
            assert!(seen.join().unwrap() == expected);
        }
    });
    let fetches = Scene::fetches(&scene.hub.requests());
    assert!(fetches <= 6, "{fetches}");
}

#[test]
fn a_set_larger_than_the_disk_is_not_pulled() {
    let scene = Scene::new();
    let name = "data/train-00000-of-00001.parquet";
    let listing = format!(
        r#"[{{"type": "file", "path": "{name}", "size": {}, "oid": "{}", "lfs": {{"oid": "{}"}}}}]"#,
        1u64 << 60,
        "a".repeat(40),
        "b".repeat(64)
    );
    scene
        .hub
        .misbehave("/tree/", Fault::Body(listing.into()), 1);
    let sentence = open_data_set(&Scene::config(None), &scene.settings, &NoProgress);
    let sentence = sentence.unwrap_err().to_string();
    assert!(
        sentence.contains("needs 1073741824.0 GiB") && sentence.contains("data.stream=true"),
        "{sentence}"
    );
    assert_eq!(scene.hub.sent(), 0);
}
