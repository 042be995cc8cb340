//! The feature network against features computed by another program, with weights that are too large for the
//! repository.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use kiln_eval::{EvalError, FeatureLayer, Inception};
use safetensors::SafeTensors;

/// `../shared/data/inception` from the project's root, if it is there.
fn data() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("../shared/data/inception");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn values(file: &SafeTensors, key: &str) -> Vec<f32> {
    let data = file.tensor(key).unwrap().data().to_vec();
    data.as_chunks()
        .0
        .iter()
        .map(|&four| f32::from_le_bytes(four))
        .collect()
}

#[test]
fn features_are_the_reference_ones() {
    let Some(folder) = data() else { return };
    let bytes = std::fs::read(folder.join("inception_reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // Ours are in [-1, 1].
    let images: Vec<f32> = values(&file, "x")
        .iter()
        .map(|value| 2.0 * value - 1.0)
        .collect();
    let images = Tensor::<4>::from_data(TensorData::new(images, [4, 3, 128, 128]), &Device::flex());
    let weights = folder.join("inception_v3_keras.safetensors");
    for (layer, key) in [
        (FeatureLayer::Mixed6c, "feat768"),
        (FeatureLayer::Mixed7c, "feat2048_fid"),
    ] {
        let network = Inception::load(&weights, layer, None, &Device::flex()).unwrap();
        assert!(!network.is_pytorch_fids());
        let features = network.features(images.clone()).unwrap();
        let reference = values(&file, key);
        assert_eq!(features.values().len(), reference.len());
        let differences = features.values().iter().zip(&reference);
        let largest = differences
            .map(|(ours, theirs)| (ours - theirs).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1e-3, "{key}: {largest}");
    }
}

#[test]
fn files_that_are_not_the_networks_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str| {
        let path = folder.path().join(name);
        Inception::load(&path, FeatureLayer::Mixed7c, None, &Device::flex()).err()
    };
    assert!(matches!(load("missing.pth"), Some(EvalError::File { .. })));
    for name in ["empty.pth", "empty.safetensors"] {
        std::fs::write(folder.path().join(name), []).unwrap();
        let error = load(name);
        assert!(
            matches!(error, Some(EvalError::Weights { .. })),
            "{error:?}"
        );
    }
    // A safetensors file without tensors.
    std::fs::write(
        folder.path().join("other.safetensors"),
        *b"\x02\0\0\0\0\0\0\0{}",
    )
    .unwrap();
    let sentence = load("other.safetensors").unwrap().to_string();
    assert!(
        sentence.contains("Conv2d_1a_3x3.conv.weight is missing"),
        "{sentence}"
    );
}
