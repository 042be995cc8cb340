use tempfile::TempDir;

use super::*;
use crate::dataset_kind::DatasetKind;
use crate::examples::{Files as Contents, gzip, png};
use crate::progress::NoProgress;

/// Gray pictures with classes: picture i of all has the gray value 5 i and the class i % 3.
fn shard(images: std::ops::Range<u8>) -> Contents {
    let mut files = Contents::default();
    for image in images {
        files.add(&format!("{image:03}.png"), png(5 * image));
        files.add(
            &format!("{image:03}.cls"),
            format!("{}", image % 3).into_bytes(),
        );
    }
    files
}

/// Five shards of eight pictures each; every second one is gzipped.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..5u8 {
        let tar = shard(8 * number..8 * number + 8).tar();
        let (name, bytes) = match number % 2 {
            0 => (format!("part-{number}.tar"), tar),
            _ => (format!("part-{number}.tar.gz"), gzip(&tar)),
        };
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn config(folder: &TempDir, stream: Option<bool>) -> DataConfig {
    DataConfig {
        path: Some(folder.path().to_owned()),
        stream,
        shuffle_buffer: 3,
        validation_fraction: 0.25,
        ..DataConfig::new(DatasetKind::Folder, 8, 1)
    }
}

fn gray(set: &ImageDataset, index: usize) -> u8 {
    ((set.image(index, false).unwrap()[0] + 1.0) * 127.5).round() as u8
}

fn grays(set: &ImageDataset) -> Vec<u8> {
    (0..set.len()).map(|index| gray(set, index)).collect()
}

#[test]
fn shards_are_the_same_set_in_memory_and_while_they_are_read() {
    let folder = folder();
    let open = |stream| crate::open(&config(&folder, stream), &NoProgress).unwrap();
    let (read, kept) = (open(Some(true)), open(Some(false)));
    assert!(!read.train.is_decoded() && kept.train.is_decoded());
    for (read, kept) in [
        (&read.train, &kept.train),
        (&read.validation, &kept.validation),
    ] {
        assert_eq!(grays(read), grays(kept));
        assert_eq!(read.fingerprint(), kept.fingerprint());
        assert_eq!(read.passes(), kept.passes());
        for index in 0..read.len() {
            assert_eq!(read.label(index), kept.label(index));
            assert_eq!(
                read.label(index),
                Some(usize::from(gray(read, index) / 5 % 3))
            );
        }
    }
    assert_eq!((read.train.len(), read.validation.len()), (30, 10));
    assert_eq!(read.train.class_names(), ["0", "1", "2"]);
    let mut all = [grays(&read.train), grays(&read.validation)].concat();
    all.sort_unstable();
    assert_eq!(all, (0..40).map(|image| 5 * image).collect::<Vec<u8>>());
}

#[test]
fn a_pattern_names_the_same_and_moving_them_changes_nothing() {
    let folder = folder();
    let of = |path: PathBuf| {
        let config = DataConfig {
            path: Some(path),
            ..config(&folder, None)
        };
        let sets = crate::open(&config, &NoProgress).unwrap();
        let fingerprints = [&sets.train, &sets.validation].map(|set| set.fingerprint().to_owned());
        (fingerprints, sets.train.name().to_owned())
    };
    let (whole, _) = of(folder.path().to_owned());
    let (named, name) = of(folder
        .path()
        .join("part-{0.tar,1.tar.gz,2.tar,3.tar.gz,4.tar}"));
    assert_eq!(whole, named);
    assert_eq!(name, "part");
    let elsewhere = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), elsewhere.path().join(entry.file_name())).unwrap();
    }
    assert_eq!(of(elsewhere.path().to_owned()).0, whole);
    // Another class is another set.
    let mut other = shard(0..8);
    other.add("003.cls", b"2".to_vec());
    std::fs::write(elsewhere.path().join("part-0.tar"), other.tar()).unwrap();
    assert_ne!(of(elsewhere.path().to_owned()).0, whole);
}

#[test]
fn shards_named_after_splits_are_used_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("train-0.tar"), shard(0..8).tar()).unwrap();
    std::fs::write(folder.path().join("val-0.tar"), shard(8..11).tar()).unwrap();
    let sets = crate::open(&config(&folder, None), &NoProgress).unwrap();
    assert_eq!(grays(&sets.validation), [40, 45, 50]);
    assert_eq!(sets.train.len(), 8);
}

#[test]
fn damaged_shards_are_left_out_up_to_the_allowed_share() {
    let folder = folder();
    let path = folder.path().join("part-2.tar");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let open = |allowed| {
        let config = DataConfig {
            max_undecodable: allowed,
            ..config(&folder, None)
        };
        crate::open(&config, &NoProgress)
    };
    let sets = open(0.2).unwrap();
    assert_eq!(sets.train.len() + sets.validation.len(), 32);
    let sentence = open(0.1).unwrap_err().to_string();
    assert!(
        sentence.starts_with("1 of 5 shards cannot be used") && sentence.contains("part-2.tar"),
        "{sentence}"
    );
}

#[test]
fn the_next_image_of_its_class_stands_in_for_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = shard(0..8);
    files.add("002.png", b"no picture".to_vec());
    std::fs::write(folder.path().join("train.tar"), files.tar()).unwrap();
    std::fs::write(folder.path().join("val.tar"), shard(8..10).tar()).unwrap();
    let open = |allowed, stream| {
        let config = DataConfig {
            max_undecodable: allowed,
            ..config(&folder, stream)
        };
        crate::open(&config, &NoProgress)
    };
    for stream in [None, Some(false)] {
        let set = open(0.125, stream).unwrap().train;
        assert_eq!(grays(&set), [0, 5, 25, 15, 20, 25, 30, 35]);
        assert_eq!(set.label(2), Some(2));
    }
    let sentence = open(0.1, Some(false)).unwrap_err().to_string();
    assert!(
        sentence.contains("1 of 8 images") && sentence.contains("002.png"),
        "{sentence}"
    );
}

#[test]
fn a_pass_opens_a_shard_once_and_keeps_few() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..20u8 {
        let path = folder.path().join(format!("s-{number:02}.tar"));
        std::fs::write(path, shard(2 * number..2 * number + 2).tar()).unwrap();
    }
    let set = crate::open(&config(&folder, None), &NoProgress)
        .unwrap()
        .train;
    let pieces = set.pieces().unwrap();
    let mut order = set.passes().order(1, 0);
    for place in 0..set.len() {
        gray(&set, order.image(place) as usize);
        // Twice the buffer of 3, in shards of 2, and four more.
        assert!(pieces.shards.open_now() <= 7);
    }
    assert_eq!(pieces.shards.opened(), 15, "a quarter is held out");
}

#[test]
fn images_without_a_class_take_all_classes_away() {
    let folder = folder();
    let mut some = shard(0..8);
    some.remove("005.cls");
    std::fs::write(folder.path().join("part-0.tar"), some.tar()).unwrap();
    let set = crate::open(&config(&folder, None), &NoProgress)
        .unwrap()
        .train;
    assert!(!set.has_labels());
    let said = set.unlabelled().unwrap();
    assert!(
        said.starts_with("1 of 40 images") && said.contains("part-0.tar"),
        "{said}"
    );
}
