//! Checks the destination of a command: never inside an existing run.

use std::fs;
use std::path::Path;

use kiln_checkpoint::{check_place, settled};

use crate::error::TrainError;
use crate::run_folder::RunFolder;
use crate::run_folder::kind::FolderKind;

/// Checks that a command may write a model to `folder`, made from `source` with the help of `others`. The folder must
/// not be part of a run or of another model, must not contain one, and [`check_place`] must allow it. A model may be
/// replaced in place, so `folder` may be `source`. Call this before the work begins. A source may be any name of a
/// model; only folders and files count.
///
/// # Errors
/// [`TrainError::Run`] and [`TrainError::Model`] name the obstacle.
pub fn check_destination(folder: &Path, source: &Path, others: &[&Path]) -> Result<(), TrainError> {
    let place = settled(folder).map_err(TrainError::file("find", folder))?;
    refuse_runs(folder, place.ancestors())?;
    let others = others.iter().map(|&other| (other, false));
    for (path, may_be_it) in others.chain([(source, true)]) {
        let Ok(found) = fs::canonicalize(path) else {
            continue;
        };
        let verb = match found.strip_prefix(&place) {
            Ok(rest) if rest != Path::new("") => "holds",
            Ok(_) if !may_be_it => "is",
            _ => continue,
        };
        return Err(TrainError::Run(format!(
            "{} {verb} {}, its own source: choose another folder",
            folder.display(),
            path.display()
        )));
    }
    Ok(check_place(folder)?)
}

/// Refuses a run folder inside another run.
pub(crate) fn check_outside_runs(run: &RunFolder) -> Result<(), TrainError> {
    let place = settled(run.path()).map_err(TrainError::file("find", run.path()))?;
    refuse_runs(run.path(), place.ancestors().skip(1))
}

/// Refuses `path` if one of these folders is a run.
fn refuse_runs<'a>(
    path: &Path,
    mut folders: impl Iterator<Item = &'a Path>,
) -> Result<(), TrainError> {
    let is_run = |folder: &&Path| {
        FolderKind::of(folder) == Some(FolderKind::Run) && RunFolder::new(folder).is_ours()
    };
    match folders.find(is_run) {
        None => Ok(()),
        Some(run) => Err(TrainError::Run(format!(
            "{} belongs to the run {}: choose a folder outside of it",
            path.display(),
            run.display()
        ))),
    }
}
