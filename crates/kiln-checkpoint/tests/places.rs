//! Where models may be written: they must not replace anything that kiln did not write.

mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_checkpoint::{Differences, DiffusionModel, ModelSource, check_place, differences};
use kiln_models::WeightsType;
use tempfile::TempDir;

const LIST: &str = ".kiln-files";

/// A folder with a model in `model`, like after a training.
struct Scene {
    around: TempDir,
    model: DiffusionModel,
}

impl Scene {
    fn new() -> Self {
        let mut model = victim::load(victim::model().path()).unwrap();
        let training = [("dataset".to_owned(), "nothing".to_owned())];
        model.metadata.training = BTreeMap::from(training);
        let scene = Self {
            around: tempfile::tempdir().unwrap(),
            model,
        };
        scene.save("model").unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.around.path().join(name)
    }

    fn save(&self, name: &str) -> Result<(), String> {
        let saved = self.model.save(&self.path(name), WeightsType::F32);
        saved.map_err(|error| error.to_string())
    }

    /// Asserts that writing to `model` fails with this reason and leaves it unchanged.
    fn refuses(&self, reason: &str) {
        let before = everything_in(self.around.path());
        for refused in [
            check_place(&self.path("model")).map_err(|error| error.to_string()),
            self.save("model"),
        ] {
            let sentence = refused.unwrap_err();
            assert!(
                sentence.contains(reason) && sentence.contains("choose another folder"),
                "{sentence}"
            );
        }
        assert_eq!(everything_in(self.around.path()), before, "{reason}");
    }
}

/// Everything in a folder, with the contents of files and the targets of links.
fn everything_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.insert(path, target.to_string_lossy().into_owned().into_bytes());
        } else if path.is_dir() {
            found.extend(everything_in(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn a_part_of_a_model_is_no_place_for_another() {
    let scene = Scene::new();
    let before = everything_in(scene.around.path());
    let parts = ["model/unet", "model/new/deeper", "model/../model/scheduler"];
    for part in parts {
        let checked = check_place(&scene.path(part)).map_err(|error| error.to_string());
        for refused in [checked, scene.save(part)] {
            let sentence = refused.unwrap_err();
            assert!(sentence.contains("is a part of the model"), "{sentence}");
        }
    }
    assert_eq!(everything_in(scene.around.path()), before);
    // A config alone may belong to anything.
    fs::create_dir(scene.path("project")).unwrap();
    fs::write(scene.path("project/config.json"), "{}").unwrap();
    scene.save("project/model").unwrap();
}

#[test]
fn a_folder_is_compared_with_the_list_of_its_files() {
    let scene = Scene::new();
    let compared = || differences(&scene.path("model")).unwrap();
    assert_eq!(compared(), Some(Differences::default()));
    fs::write(scene.path("model/notes.txt"), "years of work").unwrap();
    assert_eq!(compared(), Some(Differences::default()));
    fs::write(scene.path("model/unet/config.json"), "{}").unwrap();
    fs::remove_file(scene.path("model/model_index.json")).unwrap();
    let expected = Differences {
        missing: vec!["model_index.json".to_owned()],
        changed: vec!["unet/config.json".to_owned()],
    };
    assert_eq!(compared(), Some(expected));
    fs::remove_file(scene.path("model").join(LIST)).unwrap();
    assert_eq!(compared(), None);
}

#[test]
fn what_kiln_wrote_is_replaced_and_listed_for_sha256sum() {
    let scene = Scene::new();
    scene.save("model").unwrap();
    let list = fs::read_to_string(scene.path("model").join(LIST)).unwrap();
    let files: Vec<&str> = list.lines().map(|line| &line[66..]).collect();
    let expected = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    assert_eq!(files, expected);
    assert_eq!(fs::read_dir(scene.around.path()).unwrap().count(), 1);
}

#[test]
fn whatever_somebody_added_stays() {
    for (name, is_folder) in [
        ("notes.txt", false),
        ("unet/notes.txt", false),
        (".hidden", false),
        ("src", true),
        (".git/objects", true),
        ("unet/.kiln-files", false),
    ] {
        let scene = Scene::new();
        let path = scene.path("model").join(name);
        match is_folder {
            true => fs::create_dir_all(&path).unwrap(),
            false => fs::write(&path, "years of work").unwrap(),
        }
        let named = name
            .split_once("/objects")
            .map_or(name, |(folder, _)| folder);
        scene.refuses(&format!("holds {named:?}, which kiln did not write"));
    }
}

#[test]
fn whatever_somebody_changed_stays() {
    let scene = Scene::new();
    let config = scene.path("model/scheduler/scheduler_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("1000", "500")).unwrap();
    scene.refuses("scheduler_config.json\", which was changed after kiln wrote it");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_out_of_the_folder() {
    let scene = Scene::new();
    let weights = scene.path("model/unet/diffusion_pytorch_model.safetensors");
    fs::rename(&weights, scene.path("weights")).unwrap();
    std::os::unix::fs::symlink(scene.path("weights"), &weights).unwrap();
    scene.refuses("diffusion_pytorch_model.safetensors\", which kiln did not write");

    // A link instead of the whole folder leads to the model, which is replaced at its own place.
    let scene = Scene::new();
    std::os::unix::fs::symlink("model", scene.path("link")).unwrap();
    scene.save("link").unwrap();
    assert!(scene.path("link").is_symlink() && scene.path("model").is_dir());
    std::os::unix::fs::symlink("nowhere", scene.path("dangling")).unwrap();
    let sentence = scene.save("dangling").unwrap_err();
    assert!(sentence.contains("is no folder"), "{sentence}");
}

#[test]
fn models_of_others_and_other_things_stay() {
    for (name, contents) in [
        ("config.json", "{}"),
        ("model_index.json", "{}"),
        ("a", "b"),
    ] {
        let scene = Scene::new();
        fs::remove_dir_all(scene.path("model")).unwrap();
        fs::create_dir(scene.path("model")).unwrap();
        fs::write(scene.path("model").join(name), contents).unwrap();
        scene.refuses("kiln did not write");
    }
}

#[test]
fn a_model_without_its_list_stays() {
    // As a shell copies it by `cp model/*`, or diffusers writes it.
    let scene = Scene::new();
    fs::remove_file(scene.path("model").join(LIST)).unwrap();
    scene.refuses("which kiln did not write: .kiln-files, its list of files, is not there");
}

#[test]
fn a_detour_through_the_folder_itself_does_not_hide_it() {
    let scene = Scene::new();
    for detour in ["model/../model", "model/unet/../../model", "model/."] {
        scene.save(detour).unwrap();
        let source = ModelSource::Folder(scene.path("model"));
        DiffusionModel::load(&source, &Device::flex()).unwrap();
        assert_eq!(fs::read_dir(scene.around.path()).unwrap().count(), 1);
    }
    scene.save("absent/../other").unwrap();
    assert!(scene.path("other").is_dir() && !scene.path("absent").exists());
}
