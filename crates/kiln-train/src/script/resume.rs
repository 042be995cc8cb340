//! Resumes a stage: its newest good checkpoint, and the session after it.

use crate::counted;
use crate::error::TrainError;
use crate::learner::session::{Session, StopSignal};
use crate::ranks::Ranks;
use crate::run_folder::StageFolder;
use crate::run_folder::checkpoints::{CheckpointFolder, GoodCheckpoint};

/// The newest good checkpoint, if `resume` asks for it.
///
/// # Errors
/// If there are checkpoints but `resume` is false: they must not be overwritten by accident.
pub(crate) fn find_checkpoint(
    folder: &StageFolder,
    resume: bool,
) -> Result<Option<GoodCheckpoint>, TrainError> {
    let checkpoints = CheckpointFolder::new(folder.checkpoints());
    match (checkpoints.steps().last(), resume) {
        (Some(step), false) => Err(TrainError::Run(format!(
            "{} already holds a training of {}: add --resume to continue it, or choose another --out",
            folder.checkpoints().display(),
            counted(*step, "step")
        ))),
        (None, false) => Ok(None),
        (None, true) => {
            tracing::warn!(
                "there is no checkpoint in {} to go on from: the training begins from its start",
                folder.checkpoints().display()
            );
            Ok(None)
        }
        (Some(_), true) => {
            let checkpoint = checkpoints.newest_good().ok_or_else(|| {
                TrainError::Run(format!(
                    "all checkpoints in {} are damaged: remove the folder to start again",
                    folder.checkpoints().display()
                ))
            })?;
            if checkpoint.kiln != env!("CARGO_PKG_VERSION") {
                return Err(TrainError::Run(format!(
                    "the checkpoints in {} are of kiln {}, and this is kiln {}: resume with that version, or choose another --out",
                    folder.checkpoints().display(),
                    checkpoint.kiln,
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Ok(Some(checkpoint))
        }
    }
}

/// The session of a stage that continues after `resume`.
pub(crate) fn session(
    resume: Option<&GoodCheckpoint>,
    stop: &StopSignal,
    ranks: &Ranks,
) -> Session {
    let steps_done = resume.map_or(0, |checkpoint| checkpoint.step);
    Session::of_ranks(ranks.clone(), steps_done, stop.clone())
}
