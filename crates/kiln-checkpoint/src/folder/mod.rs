//! Writing a folder so that it is either there as a whole or not at all, and never in the place of what kiln did not write.
//!
//! ```text
//! manifest.rs    the hidden list of what kiln wrote into a folder, by which it knows what it may replace
//! exchange.rs    how a new folder takes the place of an old one, and what is left if the program is killed meanwhile
//! ```

mod exchange;
mod manifest;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use burn::module::Module;
use kiln_models::{WeightsError, WeightsType, save_weights};

use crate::layout::{CONFIG, INDEX, WEIGHTS};
use crate::{CheckpointError, Metadata, ModelSource};
use exchange::HiddenFolder;
pub use manifest::{Differences, differences};

/// Whether a model may be written to `folder`: it is no part of another one, and nothing stands there, or an empty folder, or
/// one that holds just what kiln wrote. To be asked before the work that makes the model. Clears away what killed programs
/// have left beside it.
///
/// # Errors
/// [`CheckpointError::PartOfModel`] and [`CheckpointError::NotReplaced`] say what is in the way.
pub fn check_place(folder: &Path) -> Result<(), CheckpointError> {
    check_outside_models(folder)?;
    let place = settled(folder).map_err(|problem| write_error(folder, problem))?;
    exchange::clear_leftovers(parent(&place));
    may_be_replaced(&place, folder)
}

/// Whether `path` lies outside of all models, whichever way it is spelled. It may be a model itself, and need not exist.
///
/// # Errors
/// [`CheckpointError::PartOfModel`] names the model.
pub fn check_outside_models(path: &Path) -> Result<(), CheckpointError> {
    let place = settled(path).map_err(|problem| write_error(path, problem))?;
    let is_model = |folder: &&Path| {
        let folder = ModelSource::Folder(folder.to_path_buf());
        // A config alone can be anybody's.
        folder.has(INDEX) || folder.has(manifest::LIST) || folder.has(CONFIG) && folder.has(WEIGHTS)
    };
    match place.ancestors().skip(1).filter(is_model).last() {
        None => Ok(()),
        Some(model) => Err(CheckpointError::PartOfModel {
            path: path.to_owned(),
            model: model.to_owned(),
        }),
    }
}

/// A folder being written. It lies in a hidden folder beside its destination until [`NewFolder::place`]; dropped
/// before that, it disappears and the destination stays as it was.
pub struct NewFolder {
    hidden: HiddenFolder,
    /// As the user wrote it.
    destination: PathBuf,
    /// The same without links and detours.
    place: PathBuf,
}

impl NewFolder {
    /// Begins to write `destination`, if [`check_place`] allows it.
    ///
    /// # Errors
    /// As [`check_place`], and if nothing can be written there.
    pub fn begin(destination: &Path) -> Result<Self, CheckpointError> {
        check_place(destination)?;
        let write = |problem| write_error(destination, problem);
        let place = settled(destination).map_err(write)?;
        fs::create_dir_all(parent(&place)).map_err(write)?;
        Ok(Self {
            hidden: HiddenFolder::beside(&place).map_err(write)?,
            destination: destination.to_owned(),
            place,
        })
    }

    /// The path to write `file` to. Makes the folder that it lies in.
    ///
    /// # Errors
    /// If that folder cannot be made.
    pub fn path(&self, file: &str) -> Result<PathBuf, CheckpointError> {
        let path = self.hidden.new_folder().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|problem| self.write_error(file, problem))?;
        }
        Ok(path)
    }

    /// Writes a text file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<(), CheckpointError> {
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
    ) -> Result<(), CheckpointError> {
        let path = self.path(file)?;
        let written = save_weights(network, &path, weights_type, &metadata.to_header());
        written.map_err(|problem| match problem {
            // The user knows the destination, not the temporary name.
            WeightsError::Write { source, .. } => self.write_error(file, source),
            problem => CheckpointError::Weights {
                file: self.destination.join(file).display().to_string(),
                problem,
            },
        })
    }

    /// Moves the folder to its destination, in exchange for what kiln wrote there before.
    ///
    /// # Errors
    /// If something else has come there meanwhile, or the folder cannot be moved.
    pub fn place(self) -> Result<(), CheckpointError> {
        let write = |problem| write_error(&self.destination, problem);
        manifest::write(&self.hidden.new_folder()).map_err(write)?;
        // Something may have come there while the model was made.
        may_be_replaced(&self.place, &self.destination)?;
        self.hidden.take_the_place_of(&self.place).map_err(write)
    }

    fn write_error(&self, file: &str, problem: io::Error) -> CheckpointError {
        write_error(&self.destination.join(file), problem)
    }
}

/// Refuses a place at which something stands that is not wholly kiln's. `destination` is what the user calls it.
fn may_be_replaced(place: &Path, destination: &Path) -> Result<(), CheckpointError> {
    let refuse = |reason: String| CheckpointError::NotReplaced {
        folder: destination.to_owned(),
        reason,
    };
    match fs::symlink_metadata(place) {
        // Nothing is there, or it is for the attempt to write to say what is wrong.
        Err(_) => return Ok(()),
        Ok(found) if !found.is_dir() => return Err(refuse("is no folder".to_owned())),
        Ok(_) => {}
    }
    manifest::check(place).map_err(refuse)?;
    // A shell whose working folder is exchanged for another sees neither.
    let is_inside = std::env::current_dir().is_ok_and(|current| current.starts_with(place));
    if is_inside {
        return Err(refuse("is the folder that you are in".to_owned()));
    }
    Ok(())
}

/// The path without links and detours: `M/../M` is M, even while M has another name.
///
/// # Errors
/// If it is relative and the working folder is not to be found.
pub fn settled(path: &Path) -> io::Result<PathBuf> {
    let mut settled = match path.is_absolute() {
        true => PathBuf::new(),
        false => std::env::current_dir()?,
    };
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                settled.pop();
            }
            component => {
                settled.push(component);
                // What is not there yet has no links, either.
                if let Ok(real) = fs::canonicalize(&settled) {
                    settled = real;
                }
            }
        }
    }
    Ok(settled)
}

/// The folder that a settled path lies in.
fn parent(place: &Path) -> &Path {
    place.parent().unwrap_or(place)
}

fn write_error(path: &Path, problem: io::Error) -> CheckpointError {
    CheckpointError::Write {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detours_and_links_lead_to_one_place() {
        let around = tempfile::tempdir().unwrap();
        let around = fs::canonicalize(around.path()).unwrap();
        fs::create_dir(around.join("model")).unwrap();
        for detour in ["model/../model", "./model/.", "absent/../model", "model//"] {
            assert_eq!(
                settled(&around.join(detour)).unwrap(),
                around.join("model"),
                "{detour}"
            );
        }
        #[cfg(unix)]
        {
            fs::create_dir(around.join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("../model", around.join("elsewhere/link")).unwrap();
            let path = around.join("elsewhere/link/../other");
            assert_eq!(settled(&path).unwrap(), around.join("other"));
        }
    }
}
