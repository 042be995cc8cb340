//! The digit classifier that ships, on images that it was not trained on.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_data::{DataConfig, DatasetKind, NoProgress};
use kiln_eval::{DigitClassifier, FeatureKind, Judge, Reference, Seen, chi_squared};

const SIDE: usize = DigitClassifier::SIDE;

/// The 10,000 test images of MNIST, read by that classifier, and their labels.
fn test_images() -> (Seen, Vec<usize>) {
    let config = DataConfig::new(DatasetKind::Mnist10k, SIDE, 1);
    let datasets = kiln_data::open(&config, &NoProgress).unwrap();
    let device = Device::flex();
    let judge = Judge::open(FeatureKind::Digits, None, 0, &device, &NoProgress).unwrap();
    let mut all: Option<Seen> = None;
    let mut labels = Vec::new();
    for set in [datasets.train, datasets.validation] {
        labels.extend((0..set.len()).filter_map(|image| set.label(image)));
        for first in (0..set.len()).step_by(100) {
            let batch = (first..(first + 100).min(set.len()))
                .flat_map(|image| set.image(image, false).unwrap());
            let values: Vec<f32> = batch.collect();
            let shape = [values.len() / (SIDE * SIDE), 1, SIDE, SIDE];
            let images = Tensor::<4>::from_data(TensorData::new(values, shape), &device);
            let seen = judge.see(images).unwrap();
            match &mut all {
                None => all = Some(seen),
                Some(all) => all.append(seen).unwrap(),
            }
        }
    }
    (all.unwrap(), labels)
}

#[test]
fn the_classifier_reads_what_it_has_not_learnt_and_halves_of_the_set_are_alike() {
    let (seen, labels) = test_images();
    let Seen::Digits(readings) = &seen else {
        panic!("the classifier reads digits");
    };
    assert_eq!((readings.digits.len(), labels.len()), (10_000, 10_000));
    let accuracy = readings.accuracy(&labels);
    assert!(accuracy >= 0.993, "{accuracy}");
    assert!(readings.confident() > 0.97);
    let mut counts = [0; DigitClassifier::CLASSES];
    labels.iter().for_each(|&label| counts[label] += 1);
    assert!(chi_squared(&readings.histogram(), &counts) < 1e-4);

    // One half of the images compared with the other, by all measures.
    let half = |odd: usize| {
        let rows = seen.features().rows().skip(odd).step_by(2);
        let values = rows.flatten().copied().collect();
        kiln_eval::Features::new(values, DigitClassifier::FEATURES).unwrap()
    };
    let reference =
        Reference::new(Seen::Features(half(0).first(1000)), ["Frechet", "kernel"]).unwrap();
    let figures = reference
        .compare(&Seen::Features(half(1).first(1000)), 0)
        .unwrap();
    let value = |name: &str| {
        figures
            .iter()
            .find(|figure| figure.name == name)
            .unwrap()
            .value
    };
    for name in ["precision", "recall", "density", "coverage"] {
        assert!(value(name) > 0.85, "{name} {}", value(name));
    }
}
