//! Writing a folder so that it is either there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use kiln_models::{WeightsError, WeightsType, save_weights};
use tempfile::TempDir;

use crate::{HubError, Metadata};

/// Name of the new folder within its hidden one, which nobody else may enter.
const NEW: &str = "new";

/// A folder being written. It lies in a hidden folder beside its destination until [`NewFolder::place`]; dropped
/// before that, it disappears and the destination stays as it was.
pub(crate) struct NewFolder {
    hidden: TempDir,
    destination: PathBuf,
    marker: &'static str,
}

impl NewFolder {
    /// Begins to write `destination`. Something that stands there already must be an empty folder or one that
    /// has the file `marker`, by which a model is known.
    pub(crate) fn begin(destination: &Path, marker: &'static str) -> Result<Self, HubError> {
        if destination.exists() && !replaceable(destination, marker) {
            return Err(HubError::NotReplaced(destination.to_owned()));
        }
        let write = |problem| HubError::Write {
            path: destination.to_owned(),
            problem,
        };
        let parent = parent(destination);
        fs::create_dir_all(parent).map_err(write)?;
        let hidden = hidden_sibling(parent, "new").map_err(write)?;
        fs::create_dir(hidden.path().join(NEW)).map_err(write)?;
        Ok(Self {
            hidden,
            destination: destination.to_owned(),
            marker,
        })
    }

    /// The path to write `file` to. Makes the folder that it lies in.
    pub(crate) fn path(&self, file: &str) -> Result<PathBuf, HubError> {
        let path = self.hidden.path().join(NEW).join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|problem| self.write_error(file, problem))?;
        }
        Ok(path)
    }

    /// Writes a text file.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), HubError> {
        let path = self.path(file)?;
        let write = || {
            let mut file = File::create(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|problem| self.write_error(file, problem))
    }

    /// Writes a network's weights.
    pub(crate) fn write_weights<M: Module>(
        &self,
        file: &str,
        network: &M,
        weights_type: WeightsType,
        metadata: &Metadata,
    ) -> Result<(), HubError> {
        let path = self.path(file)?;
        let written = save_weights(network, &path, weights_type, &metadata.to_header());
        written.map_err(|problem| match problem {
            // Said of the destination; nobody knows the temporary name.
            WeightsError::Write { source, .. } => self.write_error(file, source),
            problem => HubError::Weights {
                file: self.destination.join(file).display().to_string(),
                problem,
            },
        })
    }

    /// Moves the folder to its destination, in exchange for what stands there.
    pub(crate) fn place(self) -> Result<(), HubError> {
        let Self {
            hidden,
            destination,
            marker,
        } = self;
        if destination.exists() && !replaceable(&destination, marker) {
            return Err(HubError::NotReplaced(destination));
        }
        let exchange = || {
            let new = hidden.path().join(NEW);
            sync_folders(&new)?;
            let parent = parent(&destination);
            // What is replaced goes away only after the new folder has its name.
            let aside = hidden_sibling(parent, "old")?;
            let old = aside.path().join("replaced");
            if destination.exists() {
                fs::rename(&destination, &old)?;
            }
            if let Err(problem) = fs::rename(&new, &destination) {
                if old.exists() && fs::rename(&old, &destination).is_err() {
                    // Better a model under a strange name than none.
                    let _ = aside.keep();
                }
                return Err(problem);
            }
            sync(parent)
        };
        exchange().map_err(|problem| HubError::Write {
            path: destination.clone(),
            problem,
        })
    }

    fn write_error(&self, file: &str, problem: io::Error) -> HubError {
        HubError::Write {
            path: self.destination.join(file),
            problem,
        }
    }
}

/// Whether what stands at a path may make way: an empty folder, or one with the file `marker`.
fn replaceable(destination: &Path, marker: &str) -> bool {
    let empty = || fs::read_dir(destination).is_ok_and(|mut files| files.next().is_none());
    destination.is_dir() && (destination.join(marker).is_file() || empty())
}

/// The folder that a path lies in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn hidden_sibling(parent: &Path, purpose: &str) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(&format!(".kiln-{purpose}-"))
        .tempdir_in(parent)
}

/// Brings the names in a folder and its subfolders to disk. The files in them are there already.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        }
    }
    sync(folder)
}

/// Brings the names in a folder to disk, where the system has a way to.
fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
