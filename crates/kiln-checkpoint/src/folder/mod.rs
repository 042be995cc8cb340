//! Writes a folder so that it is either complete or absent, and replaces only folders that kiln wrote.
//!
//! ```text
//! manifest.rs    the hidden list of the files that kiln wrote into a folder and may replace
//! exchange.rs    how a new folder replaces an old one, and what is left if the program is killed meanwhile
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

/// Checks that a model may be written to `folder`: it is not part of another model, and it does not exist, is empty, or
/// contains only what kiln wrote. Call this before the work that makes the model. It also removes the remains of killed
/// programs beside the folder.
///
/// # Errors
/// [`CheckpointError::PartOfModel`] and [`CheckpointError::NotReplaced`] name the obstacle.
pub fn check_place(folder: &Path) -> Result<(), CheckpointError> {
    check_outside_models(folder)?;
    let place = settled(folder).map_err(|problem| write_error(folder, problem))?;
    exchange::clear_leftovers(parent(&place));
    may_be_replaced(&place, folder)
}

/// Checks that `path`, however it is spelled, lies outside of all models. It may be a model itself, and need not exist.
///
/// # Errors
/// [`CheckpointError::PartOfModel`] names the model.
pub fn check_outside_models(path: &Path) -> Result<(), CheckpointError> {
    let place = settled(path).map_err(|problem| write_error(path, problem))?;
    let is_model = |folder: &&Path| {
        let folder = ModelSource::Folder(folder.to_path_buf());
        // A config alone may belong to anything.
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

/// A folder that is being written. It lies in a hidden folder beside its destination until [`NewFolder::place`]. If it
/// is dropped before that, it is removed, and the destination is unchanged.
pub struct NewFolder {
    hidden: HiddenFolder,
    /// The destination as the user wrote it.
    destination: PathBuf,
    /// The same path, resolved.
    place: PathBuf,
}

impl NewFolder {
    /// Begins to write `destination`, if [`check_place`] allows it.
    ///
    /// # Errors
    /// Those of [`check_place`], and if the place is not writable.
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

    /// The path to write `file` to. Makes its folder.
    ///
    /// # Errors
    /// If the folder cannot be made.
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

    /// Moves the folder to its destination, in exchange for kiln's earlier folder.
    ///
    /// # Errors
    /// If something else has appeared there in the meantime, or the folder cannot be moved.
    pub fn place(self) -> Result<(), CheckpointError> {
        let write = |problem| write_error(&self.destination, problem);
        manifest::write(&self.hidden.new_folder()).map_err(write)?;
        // Something may have appeared there while the model was made.
        may_be_replaced(&self.place, &self.destination)?;
        self.hidden.take_the_place_of(&self.place).map_err(write)
    }

    fn write_error(&self, file: &str, problem: io::Error) -> CheckpointError {
        write_error(&self.destination.join(file), problem)
    }
}

/// Refuses an existing place that is not entirely kiln's. `destination` is the user's name for it.
fn may_be_replaced(place: &Path, destination: &Path) -> Result<(), CheckpointError> {
    let refuse = |reason: String| CheckpointError::NotReplaced {
        folder: destination.to_owned(),
        reason,
    };
    match fs::symlink_metadata(place) {
        // Nothing is there, or the attempt to write will report the problem.
        Err(_) => return Ok(()),
        Ok(found) if !found.is_dir() => return Err(refuse("is no folder".to_owned())),
        Ok(_) => {}
    }
    manifest::check(place).map_err(refuse)?;
    // A shell loses its working folder if that is exchanged for another.
    let is_inside = std::env::current_dir().is_ok_and(|current| current.starts_with(place));
    if is_inside {
        return Err(refuse("is the folder that you are in".to_owned()));
    }
    Ok(())
}

/// The path with links and `..` resolved: `M/../M` is M, even while M temporarily has another name.
///
/// # Errors
/// If it is relative and the working folder cannot be found.
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
                // A path that does not exist yet has no links, either.
                if let Ok(real) = fs::canonicalize(&settled) {
                    settled = real;
                }
            }
        }
    }
    Ok(settled)
}

/// The parent of a settled path.
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
