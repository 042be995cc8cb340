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

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::TrainError;

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
        self.0.join("latents").join(format!("{hash}.safetensors"))
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    pub(crate) fn best(&self) -> PathBuf {
        self.0.join("best")
    }
}

impl StageFolder {
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

/// Writes a whole file under a temporary name and renames it, so that nobody ever sees half of it.
///
/// # Errors
/// [`TrainError::File`] when it cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        std::fs::create_dir_all(folder)?;
        // By `make_in`, since `new_in` keeps its files from other users.
        let mut file = tempfile::Builder::new().make_in(folder, |path| File::create_new(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(drop).map_err(TrainError::file("write", path))
}
