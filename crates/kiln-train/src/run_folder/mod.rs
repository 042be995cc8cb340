//! Where a run keeps what it makes.
//!
//! ```text
//! runs/mnist/
//!   config.toml             exactly what was run
//!   vqvae/                  stage 1: checkpoints/ metrics.csv curves.svg reconstructions/, and in model/ the VQ-VAE
//!   latents/HASH.safetensors
//!   diffusion/              stage 2: checkpoints/ metrics.csv curves.svg samples/, and in start/ the model before its first step
//!   model/                  the finished model, diffusers layout
//!   best/                   the model that `[stage_2.evaluation]` chose by its `best_by`, where there is one
//! ```
//!
//! A run in pixel space has neither `vqvae/` nor `latents/`. One of the digit classifier has its checkpoints/ metrics.csv
//! curves.svg and model.safetensors at the top.

pub(crate) mod claim;
pub mod destination;
pub mod drawable;
pub mod kind;
pub mod record;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_data::open_regular;

use crate::error::TrainError;

/// How `config.toml` of a run folder begins, whichever version wrote it.
pub(crate) const WRITTEN_BY: &str = "# Written by kiln";

/// A run folder, which need not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder(PathBuf);

/// What one stage keeps.
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

    /// Whether its `config.toml` is one that a training wrote.
    pub(crate) fn is_ours(&self) -> bool {
        beginning_of(&self.config()).starts_with(WRITTEN_BY)
    }

    pub(crate) fn stage_1(&self) -> StageFolder {
        StageFolder(self.0.join("vqvae"))
    }

    pub(crate) fn stage_2(&self) -> StageFolder {
        StageFolder(self.0.join("diffusion"))
    }

    /// What training the digit classifier keeps: checkpoints/ metrics.csv curves.svg.
    pub(crate) fn classifier(&self) -> StageFolder {
        StageFolder(self.0.clone())
    }

    /// The weights of the trained digit classifier.
    pub(crate) fn classifier_weights(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }

    pub(crate) fn latents(&self, hash: &str) -> PathBuf {
        self.all_latents().join(format!("{hash}.safetensors"))
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

    /// The trained network, which stage 2 begins with.
    pub(crate) fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// The model as stage 2 began with it: what its checkpoints need to be drawn from.
    pub(crate) fn start(&self) -> PathBuf {
        self.0.join("start")
    }

    /// The picture that belongs to step `step`.
    pub(crate) fn picture(&self, kind: &str, step: usize) -> PathBuf {
        self.0.join(kind).join(format!("step-{step:07}.png"))
    }
}

/// How the temporary names of [`write_atomically`] begin and end, so that what a kill leaves is known to be ours.
const TEMPORARY: [&str; 2] = [".kiln-", ".partial"];

/// Whether [`write_atomically`] gives such a name to a file that is not whole yet.
pub(crate) fn is_temporary(name: &str) -> bool {
    let [start, end] = TEMPORARY;
    name.starts_with(start) && name.ends_with(end)
}

/// Writes a whole file under a temporary name and renames it, so that nobody ever sees half of it.
///
/// # Errors
/// [`TrainError::File`] when it cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || {
        std::fs::create_dir_all(folder)?;
        let [start, end] = TEMPORARY;
        let mut names = tempfile::Builder::new();
        names.prefix(start).suffix(end);
        // By `make_in`, since `new_in` keeps its files from other users.
        let mut file = names.make_in(folder, |path| File::create_new(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    write().map_err(TrainError::file("write", path))
}

/// The first few hundred letters of a file; nothing where it cannot be read.
pub(crate) fn beginning_of(path: &Path) -> String {
    let mut start = Vec::new();
    if let Ok(file) = open_regular(path) {
        let _ = file.take(1024).read_to_end(&mut start);
    }
    String::from_utf8_lossy(&start).into_owned()
}

/// Brings the names in a folder to disk, where the system has a way to.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
