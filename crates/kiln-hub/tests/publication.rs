//! The page that is published with a model: what it says can be done, and what it is made of.

mod victim;

use std::fs;
use std::path::PathBuf;

use burn::tensor::Device;
use kiln_hub::{LatentDiffusion, ModelSource, Publication, publish};
use kiln_models::{TimeEmbeddingType, UNet2dConfig, WeightsType};

use victim::model;

/// The page of a sound model with another U-Net, published with `publication`.
fn page(config: impl Fn(&mut UNet2dConfig), publication: &Publication) -> Result<String, String> {
    let (device, folder) = (Device::flex(), model());
    let source = ModelSource::Folder(folder.path().to_owned());
    let mut model = LatentDiffusion::load(&source, &device).unwrap();
    let mut changed = model.unet.config().clone();
    config(&mut changed);
    model.unet = changed.init(&device, 0).unwrap();
    let around = tempfile::tempdir().unwrap();
    let (saved, published) = (around.path().join("model"), around.path().join("published"));
    model.save(&saved, WeightsType::F32).unwrap();
    publish(
        &saved,
        &"ada/tiny".parse().unwrap(),
        publication,
        &published,
    )
    .map_err(|error| error.to_string())?;
    Ok(fs::read_to_string(published.join("README.md")).unwrap())
}

#[test]
fn python_is_shown_for_what_diffusers_loads_alone() {
    let usual = page(|_| (), &Publication::default()).unwrap();
    for part in [
        "```python\nfrom diffusers",
        "library_name: diffusers",
        "kiln sample --model ada/tiny",
    ] {
        assert!(usual.contains(part), "{part} in {usual}");
    }
    for kind in [
        TimeEmbeddingType::NoisePower,
        TimeEmbeddingType::NoisePowerInput,
    ] {
        let ours = page(
            |config| config.time_embedding_type = kind,
            &Publication::default(),
        )
        .unwrap();
        for absent in [
            "```python",
            "from_pretrained",
            "library_name: diffusers",
            "crates.io",
        ] {
            assert!(!ours.contains(absent), "{absent} in {ours}");
        }
        assert!(ours.contains("diffusers does not load it"), "{ours}");
        assert!(ours.contains("kiln sample --model ada/tiny"), "{ours}");
    }
}

#[test]
fn figures_without_an_end_are_not_read() {
    let around = tempfile::tempdir().unwrap();
    let hole = around.path().join("results.json");
    fs::File::create(&hole).unwrap().set_len(1 << 40).unwrap();
    for evaluation in [hole, PathBuf::from("/dev/zero")] {
        let publication = Publication {
            evaluation: Some(evaluation),
            ..Publication::default()
        };
        let refused = page(|_| (), &publication).unwrap_err();
        assert!(refused.contains("cannot read"), "{refused}");
    }
}
