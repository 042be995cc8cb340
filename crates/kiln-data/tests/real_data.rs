//! The real data sets, if they exist in `../shared/data` beside the workspace.

use std::path::{Path, PathBuf};

use kiln_data::{DataConfig, DatasetKind, Datasets, ImageDataset, NoProgress};

/// The path, or `None` with a note if it does not exist.
fn at_hand(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

fn open(dataset: DatasetKind, size: usize, channels: usize, path: PathBuf) -> Datasets {
    let config = DataConfig {
        path: Some(path),
        ..DataConfig::new(dataset, size, channels)
    };
    kiln_data::open(&config, &NoProgress).unwrap()
}

fn count_by_class(dataset: &ImageDataset) -> Vec<usize> {
    let mut counts = vec![0; dataset.class_names().len()];
    for index in 0..dataset.len() {
        counts[dataset.label(index).unwrap()] += 1;
    }
    counts
}

/// Mean and standard deviation of all pixels on [0, 1].
fn statistics(dataset: &ImageDataset) -> (f64, f64) {
    let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
    for index in 0..dataset.len() {
        for pixel in dataset.image(index, false).unwrap() {
            let value = (f64::from(pixel) + 1.0) / 2.0;
            sum += value;
            squares += value * value;
            count += 1.0;
        }
    }
    let mean = sum / count;
    (mean, (squares / count - mean * mean).sqrt())
}

#[test]
fn mnist_is_whole() {
    let Some(path) = at_hand("mnist") else { return };
    let datasets = open(DatasetKind::Mnist, 28, 1, path.clone());
    assert_eq!(
        (datasets.train.len(), datasets.validation.len()),
        (60_000, 10_000)
    );
    let expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949];
    assert_eq!(count_by_class(&datasets.train), expected);
    // The well-known 0.1307 and 0.3081.
    let (mean, deviation) = statistics(&datasets.train);
    assert!((mean - 0.1307).abs() < 1e-4 && (deviation - 0.3081).abs() < 1e-4);

    let padded = open(DatasetKind::Mnist, 32, 1, path);
    assert_eq!((padded.train.len(), padded.train.border()), (60_000, 2));
}

#[test]
fn the_embedded_digits_are_the_test_set() {
    let Some(path) = at_hand("mnist") else { return };
    let real = open(DatasetKind::Mnist, 32, 1, path).validation;
    let config = DataConfig::new(DatasetKind::Mnist10k, 32, 1);
    let embedded = kiln_data::open(&config, &NoProgress).unwrap();
    let (mut train, mut validation) = (0, 0);
    for index in 0..real.len() {
        let (set, place) = if index % 10 == 9 {
            (&embedded.validation, &mut validation)
        } else {
            (&embedded.train, &mut train)
        };
        assert_eq!(set.label(*place), real.label(index));
        assert_eq!(
            set.image(*place, false).unwrap(),
            real.image(index, false).unwrap()
        );
        *place += 1;
    }
}

#[test]
fn flowers_are_whole() {
    let Some(path) = at_hand("oxford_flowers102_64.zip") else {
        return;
    };
    let datasets = open(DatasetKind::Flowers102, 64, 3, path);
    assert_eq!(
        (datasets.train.len(), datasets.validation.len()),
        (6_552, 1_637)
    );
    let (train, validation) = (
        count_by_class(&datasets.train),
        count_by_class(&datasets.validation),
    );
    assert_eq!(train.len(), 102);
    for (train, validation) in train.iter().zip(&validation) {
        // The smallest class has 40 flowers, the largest 258; every class is in both sets.
        assert!((40..=258).contains(&(train + validation)));
        assert!(*train > 20 && *validation > 0, "{train} and {validation}");
    }
    let (mean, _) = statistics(&datasets.train);
    assert!((0.3..0.5).contains(&mean), "{mean}");
}

#[test]
fn cifar_is_whole() {
    let Some(path) = at_hand("cifar10_jpg.zip") else {
        return;
    };
    let datasets = open(DatasetKind::Cifar10, 32, 3, path);
    assert_eq!(
        (datasets.train.len(), datasets.validation.len()),
        (50_000, 10_000)
    );
    assert_eq!(count_by_class(&datasets.train), [5_000; 10]);
    assert_eq!(count_by_class(&datasets.validation), [1_000; 10]);
    assert_eq!(datasets.train.class_names()[0], "airplane");
    // The mean of the channels' means 0.4914, 0.4822 and 0.4465.
    let (mean, _) = statistics(&datasets.train);
    assert!((mean - 0.4734).abs() < 2e-3, "{mean}");
}
