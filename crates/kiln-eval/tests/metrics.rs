//! Every measure against another implementation's figure for the same numbers: see tests/fixtures/eval/make.py.

use std::path::Path;

use kiln_eval::{
    Features, Manifolds, frechet_distance, mean_squared_error, psnr, squared_discrepancy, ssim,
};
use safetensors::SafeTensors;

/// A tensor of the fixture, as f64, and its shape.
fn fixture(key: &str) -> (Vec<f64>, Vec<usize>) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/eval/metrics.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(key).unwrap();
    let data = tensor.data();
    let values = match tensor.dtype() {
        safetensors::Dtype::F32 => (data.as_chunks().0.iter())
            .map(|&four| f32::from_le_bytes(four).into())
            .collect(),
        _ => (data.as_chunks().0.iter())
            .map(|&eight| f64::from_le_bytes(eight))
            .collect(),
    };
    (values, tensor.shape().to_vec())
}

fn features(key: &str) -> Features {
    let (values, shape) = fixture(key);
    Features::new(
        values.into_iter().map(|value| value as f32).collect(),
        shape[1],
    )
    .unwrap()
}

fn number(key: &str) -> f64 {
    fixture(key).0[0]
}

fn assert_near(ours: f64, theirs: f64, tolerance: f64) {
    assert!(
        (ours - theirs).abs() <= tolerance * theirs.abs(),
        "{ours} is not {theirs}"
    );
}

#[test]
fn frechet_distances_are_those_of_torchmetrics() {
    let (real, drawn) = (features("real"), features("drawn"));
    assert_near(
        frechet_distance(&real, &drawn).unwrap(),
        number("frechet_drawn"),
        1e-6,
    );
    assert_near(
        frechet_distance(&drawn, &real).unwrap(),
        number("frechet_drawn"),
        1e-6,
    );
    // Its covariance is singular.
    let few = drawn.first(8);
    assert_near(
        frechet_distance(&real, &few).unwrap(),
        number("frechet_few"),
        1e-5,
    );
}

#[test]
fn kernel_distances_are_those_of_torchmetrics() {
    let drawn = features("drawn");
    let real = features("real").first(drawn.count());
    let distance = squared_discrepancy(&real, &drawn).unwrap();
    assert_near(distance, number("kernel"), 1e-5);
}

#[test]
fn manifolds_are_those_of_the_package_of_their_authors() {
    let (real, drawn) = (features("real"), features("drawn"));
    for neighbours in [3, 5] {
        let manifolds = Manifolds::compare(&real, &drawn, neighbours).unwrap();
        let Manifolds {
            precision,
            recall,
            density,
            coverage,
        } = manifolds;
        let (theirs, _) = fixture(&format!("manifolds_{neighbours}"));
        for (ours, theirs) in [precision, recall, density, coverage]
            .into_iter()
            .zip(theirs)
        {
            assert!((ours - theirs).abs() < 1e-9, "{manifolds:?}");
        }
    }
}

#[test]
fn similarities_are_those_of_scikit_image() {
    let image = |key: &str| {
        let (values, shape) = fixture(key);
        let values: Vec<f32> = values
            .iter()
            .map(|&value| (2.0 * value - 1.0) as f32)
            .collect();
        (values, shape)
    };
    let ((picture, shape), (blurred, _)) = (image("picture"), image("blurred"));
    assert_near(mean_squared_error(&picture, &blurred), number("mse"), 1e-5);
    assert_near(psnr(&picture, &blurred), number("psnr"), 1e-5);
    let similarity = ssim(&picture, &blurred, shape[1], shape[2]).unwrap();
    assert_near(similarity, number("ssim"), 1e-6);
}
