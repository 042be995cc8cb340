//! The page that is published with a model: its code works, and its content is right.

#[path = "../../kiln-checkpoint/tests/victim/mod.rs"]
mod victim;

use std::fs;
use std::path::PathBuf;

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, ModelSource};
use kiln_diffusion::Prediction;
use kiln_hub::{Publication, publish};
use kiln_models::{TimeEmbeddingType, UNet2dConfig, WeightsType};

use victim::model;

/// The page of a valid model with another U-Net, published with `publication`.
fn page(config: impl Fn(&mut UNet2dConfig), publication: &Publication) -> Result<String, String> {
    let change = |model: &mut DiffusionModel| {
        let mut changed = model.unet.config().clone();
        config(&mut changed);
        model.unet = changed.init(&Device::flex(), 0).unwrap();
    };
    page_of(change, publication)
}

/// The page of a valid model with a `change`, published with `publication`.
fn page_of(
    change: impl Fn(&mut DiffusionModel),
    publication: &Publication,
) -> Result<String, String> {
    let folder = model();
    let source = ModelSource::Folder(folder.path().to_owned());
    let mut model = DiffusionModel::load(&source, &Device::flex()).unwrap();
    change(&mut model);
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
    let flow = |model: &mut DiffusionModel| model.scheduler.prediction = Prediction::Flow;
    let flow = page_of(flow, &Publication::default()).unwrap();
    assert!(flow.contains("no prediction type `flow`"), "{flow}");
    assert!(!flow.contains("from_pretrained"), "{flow}");
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

/// The model does not exist here: the destination is checked before the model is read.
#[test]
fn nothing_is_published_in_the_place_of_what_kiln_did_not_write() {
    let around = tempfile::tempdir().unwrap();
    let path = |name: &str| around.path().join(name);
    let publish_to = |place: &str| {
        let name = "a/b".parse().unwrap();
        let published = publish(
            &path("no model"),
            &name,
            &Publication::default(),
            &path(place),
        );
        published.unwrap_err().to_string()
    };
    let sound = victim::load(model().path()).unwrap();
    let save = |place: &str| sound.save(&path(place), WeightsType::F32).unwrap();

    save("model");
    for part in ["model/unet", "model/new/deeper", "model/../model/scheduler"] {
        let sentence = publish_to(part);
        assert!(sentence.contains("is a part of the model"), "{sentence}");
    }
    assert!(publish_to("model").contains("there is no folder"));

    fs::write(path("model/notes.txt"), "years of work").unwrap();
    save("changed");
    fs::write(path("changed/scheduler/scheduler_config.json"), "{}").unwrap();
    fs::create_dir(path("project")).unwrap();
    fs::write(path("project/a"), "b").unwrap();
    for (place, reason) in [
        ("model", "holds \"notes.txt\", which kiln did not write"),
        ("changed", "which was changed after kiln wrote it"),
        ("project", "holds \"a\", which kiln did not write"),
    ] {
        let sentence = publish_to(place);
        for expected in [reason, "choose another folder"] {
            assert!(sentence.contains(expected), "{expected} in {sentence}");
        }
    }
    assert_eq!(fs::read(path("model/notes.txt")).unwrap(), b"years of work");
    assert_eq!(fs::read(path("project/a")).unwrap(), b"b");
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 3);
}
