//! The folder for a run's results.
//!
//! ```text
//! runs/mnist/
//!   config.toml             exactly what was run
//!   run.json                its name, tags and git revisions, if there are any
//!   vqvae/                  stage 1: checkpoints/ metrics.csv curves.svg reconstructions/, and in model/ the VQ-VAE
//!   latents/HASH/train-00000.safetensors ..
//!   diffusion/              stage 2: checkpoints/ metrics.csv curves.svg samples/, and in start/ the model before its first step
//!   model/                  the finished model, diffusers layout
//!   best/                   the model that `[stage_2.evaluation]` chose by its `best_by`, if there is one
//! ```
//!
//! A stage that began with `--initial-weights` has a `begun-with.json` besides.
//! A run in pixel space has neither `vqvae/` nor `latents/`. A run of a classifier has its checkpoints/
//! metrics.csv curves.svg and model.safetensors at the top.
//!
//! | file | about |
//! | --- | --- |
//! | `checkpoints`, `manifest` | the checkpoints of a stage, whole and verified |
//! | `identity`, `changed_keys` | what a resumed run must have in common with its beginning |
//! | `metrics_table` | `metrics.csv` |
//! | `discriminator` | the discriminator beside a trained first stage |
//! | `averages` | averages of a U-Net's weights, for ones of any length |
//! | `facts` | what a model's files say about its training |
//! | `places` | paths that stay valid in any working folder |
//! | `claim`, `destination`, `kind` | what may be written where, and what is there |
//! | `label` | `run.json` |
//! | `overview` | all runs in a folder |
//! | `record`, `drawable` | how a training went, and its models |
//! | `teacher` | what a student takes over from its teacher |

pub(crate) mod averages;
pub(crate) mod changed_keys;
pub(crate) mod checkpoints;
pub(crate) mod claim;
pub mod destination;
pub(crate) mod discriminator;
pub mod drawable;
pub(crate) mod facts;
pub(crate) mod identity;
pub mod kind;
pub mod label;
pub(crate) mod manifest;
pub(crate) mod metrics_table;
pub mod overview;
pub(crate) mod places;
pub mod record;
pub(crate) mod teacher;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_data::open_regular;
use tempfile::{NamedTempFile, PersistError};

use crate::error::TrainError;

/// What a training draws: samples in stage 2, reconstructions in stage 1.
pub(crate) const PICTURES: [&str; 2] = ["samples", "reconstructions"];

/// The beginning of a run folder's `config.toml`, from any version.
pub(crate) const WRITTEN_BY: &str = "# Written by kiln";

/// A run folder, which need not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder(PathBuf);

/// The folder of one stage.
#[derive(Debug, Clone)]
pub(crate) struct StageFolder(PathBuf);

impl RunFolder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    pub(crate) fn label(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// Whether a training wrote its `config.toml`.
    pub(crate) fn is_ours(&self) -> bool {
        beginning_of(&self.config()).starts_with(WRITTEN_BY)
    }

    pub(crate) fn stage_1(&self) -> StageFolder {
        StageFolder(self.0.join("vqvae"))
    }

    pub(crate) fn stage_2(&self) -> StageFolder {
        StageFolder(self.0.join("diffusion"))
    }

    /// The files of a classifier's training: checkpoints/ metrics.csv curves.svg.
    pub(crate) fn classifier(&self) -> StageFolder {
        StageFolder(self.0.clone())
    }

    /// The weights of the trained classifier.
    pub(crate) fn classifier_weights(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    /// The folder of the latents of the first stage with this hash.
    pub(crate) fn latents(&self, hash: &str) -> PathBuf {
        self.all_latents().join(hash)
    }

    /// The folder of all latents.
    pub(crate) fn all_latents(&self) -> PathBuf {
        self.0.join("latents")
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    pub(crate) fn best(&self) -> PathBuf {
        self.0.join("best")
    }
}

impl StageFolder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.0.join("metrics.csv")
    }

    pub(crate) fn curves(&self) -> PathBuf {
        self.0.join("curves.svg")
    }

    /// The trained network, for the beginning of stage 2.
    pub(crate) fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// The record of the model whose weights the stage began with, if it did: a resume before the first checkpoint
    /// begins with them again.
    pub(crate) fn begun_with(&self) -> PathBuf {
        self.0.join("begun-with.json")
    }

    /// The weights of the discriminator that judged the trained network, if there was one.
    pub(crate) fn discriminator(&self) -> PathBuf {
        self.0.join(discriminator::FILE)
    }

    /// The model at the beginning of stage 2. Drawing from its checkpoints needs it.
    pub(crate) fn start(&self) -> PathBuf {
        self.0.join("start")
    }

    /// The averages that are kept for averages of other lengths.
    pub(crate) fn averages(&self) -> PathBuf {
        self.0.join("averages")
    }

    /// The picture of step `step`, of one of the kinds in [`PICTURES`].
    pub(crate) fn picture(&self, kind: &str, step: usize) -> PathBuf {
        self.0.join(kind).join(format!("step-{step:07}.png"))
    }
}

/// The beginning and the end of the temporary names of [`write_atomically`]. They identify files that a killed kiln
/// left.
const TEMPORARY: [&str; 2] = [".kiln-", ".partial"];

/// Whether [`write_atomically`] gives this name to an incomplete file.
pub(crate) fn is_temporary(name: &str) -> bool {
    let [start, end] = TEMPORARY;
    name.starts_with(start) && name.ends_with(end)
}

/// Writes a whole file under a temporary name and renames it, so that an incomplete file is never visible.
///
/// # Errors
/// [`TrainError::File`] if it cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_whole(path, bytes, |file| file.persist(path))
}

/// The same, unless something is at `path` by then.
///
/// # Errors
/// [`TrainError::File`] if it cannot be written, or something is there.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_whole(path, bytes, |file| file.persist_noclobber(path))
}

fn write_whole(
    path: &Path,
    bytes: &[u8],
    persist: impl FnOnce(NamedTempFile<File>) -> Result<File, PersistError<File>>,
) -> Result<(), TrainError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || {
        std::fs::create_dir_all(folder)?;
        let [start, end] = TEMPORARY;
        let mut names = tempfile::Builder::new();
        names.prefix(start).suffix(end);
        // This uses `make_in`, because `new_in` denies other users access to its files.
        let mut file = names.make_in(folder, |path| File::create_new(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        persist(file).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    write().map_err(TrainError::file("write", path))
}

/// The first few hundred letters of a file; empty if it cannot be read.
pub(crate) fn beginning_of(path: &Path) -> String {
    let mut start = Vec::new();
    if let Ok(file) = open_regular(path) {
        let _ = file.take(1024).read_to_end(&mut start);
    }
    String::from_utf8_lossy(&start).into_owned()
}

/// Writes the names in a folder to disk, if the system can do that.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_appeared_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.toml");
        write_new(&out, b"one").unwrap();
        let sentence = write_new(&out, b"two").unwrap_err().to_string();
        assert!(sentence.starts_with("cannot write"), "{sentence}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "one");
        write_atomically(&out, b"three").unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
