//! What the page can reach: models and runs in folders, and the compiled-in model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use burn::tensor::Device;
use kiln::{Pipeline, load_model};
use kiln_data::{ImageDataset, ImageShape};
use kiln_play::Shelf;
use kiln_play::protocol::{ModelName, RunFacts, RunName};
use kiln_train::FolderKind;

use super::runs;
use crate::commands::data_arguments::DataArguments;
use crate::pretrained;
use crate::terminal::one_sentence;

/// The name of the compiled-in model in the page's addresses.
const BUILT_IN: &str = "built-in";

/// The models and runs in reach.
pub(super) struct Reach {
    models: Vec<PathBuf>,
    /// How many of the models were named: they come before the compiled-in one, the others after it.
    named: usize,
    runs: Vec<PathBuf>,
    data: DataArguments,
    /// The training images that were opened last, and the model that was trained on them.
    training: Mutex<Option<(String, ImageDataset)>>,
}

impl Reach {
    /// Nothing yet. `data` names the training images.
    pub(super) fn new(data: DataArguments) -> Self {
        Self {
            models: Vec::new(),
            named: 0,
            runs: Vec::new(),
            data,
            training: Mutex::default(),
        }
    }

    /// Adds a model, or a run with its models and its checkpoints, the newest first. Returns whether the folder is one of
    /// them.
    pub(super) fn add(&mut self, folder: &Path) -> bool {
        let is_run = FolderKind::of(folder) == Some(FolderKind::Run);
        if is_run && !is_among(&self.runs, folder) {
            self.runs.push(folder.to_owned());
        }
        let is_checkpoint = FolderKind::of(folder) == Some(FolderKind::Checkpoint);
        let mut found = vec![folder.to_owned(), folder.join("model"), folder.join("best")];
        found.retain(|model| {
            model.join("model_index.json").is_file() || is_checkpoint && model == folder
        });
        let mut checkpoints = folders_in(&folder.join("diffusion/checkpoints"));
        checkpoints.reverse();
        found.extend(checkpoints);
        let is_found = !found.is_empty();
        found.retain(|folder| !is_among(&self.models, folder));
        self.models.extend(found);
        is_run || is_found
    }

    /// What is added from now on was not named.
    pub(super) fn end_of_named(&mut self) {
        self.named = self.models.len();
    }

    /// Refuses folders that the page could not tell apart.
    pub(super) fn check_names(&self) -> anyhow::Result<()> {
        for folders in [&self.models, &self.runs] {
            let mut known = BTreeSet::from([BUILT_IN.to_owned()]);
            for folder in folders {
                if !known.insert(folder.display().to_string()) {
                    bail!(
                        "the page would call two things `{}`: rename the folder of one of them",
                        folder.display()
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn add_all_in(&mut self, folder: &Path) {
        for folder in folders_in(folder) {
            self.add(&folder);
        }
    }
}

/// Whether one of `folders` is this one, however it is spelled.
fn is_among(folders: &[PathBuf], folder: &Path) -> bool {
    let place = |folder: &Path| folder.canonicalize().ok();
    let own = place(folder);
    folders
        .iter()
        .any(|other| other == folder || own.is_some() && place(other) == own)
}

/// The folders in a folder, by name; none if there is no such folder.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

/// What the page calls the one of `folders` that it names so: it cannot name any other folder.
fn named<'a>(folders: &'a [PathBuf], name: &str) -> Option<&'a Path> {
    let mut folders = folders.iter();
    folders
        .find(|folder| folder.display().to_string() == name)
        .map(PathBuf::as_path)
}

impl Shelf for Reach {
    fn models(&self) -> Vec<ModelName> {
        let name_of = |folder: &PathBuf| ModelName {
            title: folder.display().to_string(),
            model: folder.display().to_string(),
        };
        let built_in = pretrained::default_model().ok().map(|_| ModelName {
            model: BUILT_IN.to_owned(),
            title: "digits, built in".to_owned(),
        });
        let (named, found) = self.models.split_at(self.named);
        let before = named.iter().map(name_of).chain(built_in);
        before.chain(found.iter().map(name_of)).collect()
    }

    fn load(&self, model: &str, device: &Device) -> Option<Result<Pipeline, String>> {
        if model == BUILT_IN {
            let source = pretrained::default_model().map_err(|error| error.to_string());
            return Some(source.and_then(|source| {
                Pipeline::from_source(&source, device).map_err(|error| error.to_string())
            }));
        }
        let folder = named(&self.models, model)?;
        let loaded = load_model(folder, device).map_err(|error| error.to_string());
        Some(loaded.and_then(|loaded| {
            Pipeline::from_model(model.to_owned(), loaded, device)
                .map_err(|error| error.to_string())
        }))
    }

    fn training_images(&self, model: &str, shape: ImageShape) -> Result<ImageDataset, String> {
        let mut training = (self.training.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some((_, images)) = training.as_ref().filter(|(of, _)| of == model) {
            return Ok(images.clone());
        }
        let folder = named(&self.models, model);
        let images = self.data.training(folder, [shape.channels, shape.height]);
        let images = images.map_err(|error| one_sentence(&error))?;
        *training = Some((model.to_owned(), images.clone()));
        Ok(images)
    }

    fn runs(&self) -> Vec<RunName> {
        let name_of = |folder: &PathBuf| RunName {
            title: folder.display().to_string(),
            run: folder.display().to_string(),
        };
        self.runs.iter().map(name_of).collect()
    }

    fn run(&self, run: &str) -> Option<Result<RunFacts, String>> {
        named(&self.runs, run).map(runs::facts)
    }

    fn run_picture(&self, run: &str, stage: &str, step: u32) -> Option<Result<Vec<u8>, String>> {
        named(&self.runs, run).map(|folder| runs::picture(folder, stage, step))
    }

    fn examine(&self, run: &str) -> Option<Result<Vec<[String; 2]>, String>> {
        named(&self.runs, run).map(runs::findings)
    }
}
