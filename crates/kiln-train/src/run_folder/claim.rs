//! A run folder belongs to one process at a time. A training overwrites nothing in it that kiln did not write, and
//! restores it if the training does not begin.

use std::collections::BTreeSet;
use std::fs::{self, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use kiln_checkpoint::{check_outside_models, check_place};
use kiln_data::{FolderLock, read_regular};
use kiln_pipeline::pictures::MadeFolder;

use crate::error::TrainError;
use crate::ranks::Ranks;
use crate::run_folder::checkpoints::CheckpointFolder;
use crate::run_folder::destination::check_outside_runs;
use crate::run_folder::metrics_table::rows_in;
use crate::run_folder::{
    PICTURES, RunFolder, StageFolder, WRITTEN_BY, beginning_of, is_temporary, write_atomically,
};

/// The beginning of `metrics.csv`.
const FIRST_COLUMNS: &str = "step,";

/// Many times the size of a run's config.
const LARGEST_RECORD: u64 = 16 << 20;

/// The name of the classifier's weights until they are complete.
const UNFINISHED_WEIGHTS: &str = "model.safetensors.tmp";

/// The claim of a training to its run folder. Dropping it releases the folder. The folder is then restored, unless the
/// training was kept or has left a checkpoint, a row of metrics or latents.
pub(crate) struct Claim(Arc<Mutex<Option<Claimed>>>);

struct Claimed {
    run: RunFolder,
    stage: StageFolder,
    /// The earlier `config.toml`, if kiln wrote one.
    config: Before,
    /// The earlier `run.json`, if there was one.
    label: Before,
    /// The earlier record of what the stage began with, if there was one.
    begun_with: Before,
    /// Whether there was already a folder `start`, the model at the beginning of a training.
    had_start: bool,
    /// The traces of earlier trainings of the stage.
    traces: Traces,
    is_kept: bool,
    _made: MadeFolder,
    /// The lock of the folder; `None` if the file system has no locks.
    _lock: Option<FolderLock>,
}

impl Claim {
    /// Claims `run` for the training of `stage`, whose result goes to `model`. With several ranks, the first one claims
    /// it for all.
    ///
    /// # Errors
    /// If another process trains there, if the training would overwrite something that kiln did not write, if
    /// metrics.csv cannot be read, or if the folder is a model or belongs to one or to another run.
    pub(crate) fn stake(
        run: &RunFolder,
        stage: &StageFolder,
        model: &Path,
        ranks: &Ranks,
    ) -> Result<Self, TrainError> {
        if !ranks.is_first() {
            return Ok(Self(Arc::default()));
        }
        check_outside_models(model)?;
        check_outside_runs(run)?;
        let path = run.path();
        let made = MadeFolder::make(path).map_err(TrainError::file("make the folder", path))?;
        let lock = lock(path)?;
        refuse_foreign_files(run, stage)?;
        let checkpoints = CheckpointFolder::new(stage.checkpoints());
        checkpoints.require_files()?;
        if !checkpoints.steps().is_empty() {
            // The file is written again after every round.
            rows_in(&stage.metrics())?;
        }
        match stage.path() == path {
            true => refuse_foreign_weights(model)?,
            false => check_place(model)?,
        }
        clear_leftovers(run, stage)?;
        let claimed = Claimed {
            run: run.clone(),
            stage: stage.clone(),
            config: Before::of(&run.config()),
            label: Before::of(&run.label()),
            begun_with: Before::of(&stage.begun_with()),
            had_start: stage.start().exists(),
            traces: Traces::of(run, stage),
            is_kept: false,
            _made: made,
            _lock: lock,
        };
        Ok(Self(Arc::new(Mutex::new(Some(claimed)))))
    }

    /// The training has ended well: its files stay.
    pub(crate) fn keep(&mut self) {
        if let Some(claimed) = &mut *lock_of(&self.0) {
            claimed.is_kept = true;
        }
    }

    /// Drops the claim from another thread: for a program that ends without waiting for the training.
    pub(crate) fn dropping(&self) -> impl FnOnce() + Send + use<> {
        let claimed = self.0.clone();
        move || drop(lock_of(&claimed).take())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(lock_of(&self.0).take());
    }
}

fn lock_of(claimed: &Mutex<Option<Claimed>>) -> MutexGuard<'_, Option<Claimed>> {
    claimed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The traces of a stage's training.
#[derive(PartialEq)]
struct Traces {
    /// The steps of its checkpoints.
    steps: Vec<usize>,
    /// When its metrics were last written.
    metrics: Option<SystemTime>,
    /// The files of latents. It can take hours to encode them, and the next training goes on with them.
    latents: BTreeSet<PathBuf>,
}

impl Traces {
    fn of(run: &RunFolder, stage: &StageFolder) -> Self {
        let metrics = fs::metadata(stage.metrics()).and_then(|file| file.modified());
        let folders = entries_of(&run.all_latents()).into_iter();
        Self {
            steps: CheckpointFolder::new(stage.checkpoints()).steps(),
            metrics: metrics.ok(),
            latents: (folders.flat_map(|folder| entries_of(&folder)))
                .filter(|file| {
                    !file
                        .file_name()
                        .is_some_and(|name| is_temporary(&name.to_string_lossy()))
                })
                .collect(),
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.is_kept && self.traces == Traces::of(&self.run, &self.stage) {
            self.undo();
        }
    }
}

impl Claimed {
    /// Best effort: the user sees the error that ended the training.
    fn undo(&self) {
        // Where the program ends without waiting for the training, it may be writing.
        let _ = clear_leftovers(&self.run, &self.stage);
        self.config.restore(&self.run.config());
        self.label.restore(&self.run.label());
        self.begun_with.restore(&self.stage.begun_with());
        let start = self.stage.start();
        // Only if this training wrote it.
        if !self.had_start && check_place(&start).is_ok() {
            let _ = fs::remove_dir_all(start);
        }
        // Removes each folder only if it is empty. If it existed before, it either was not empty or does not matter.
        let latents = entries_of(&self.run.all_latents()).into_iter();
        for folder in latents.chain([self.stage.checkpoints(), self.run.all_latents()]) {
            let _ = fs::remove_dir(folder);
        }
        if self.stage.path() != self.run.path() {
            let _ = fs::remove_dir(self.stage.path());
        }
    }
}

/// What was in a file before.
enum Before {
    Nothing,
    Bytes(Vec<u8>),
    /// It could not be read, so it is left alone.
    Unknown,
}

impl Before {
    /// What is in `file`, which is small.
    fn of(file: &Path) -> Self {
        match read_regular(file, LARGEST_RECORD) {
            Ok(bytes) => Self::Bytes(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::Nothing,
            Err(_) => Self::Unknown,
        }
    }

    /// Gives `file` its earlier content, or removes it if there was none. Best effort.
    fn restore(&self, file: &Path) {
        match self {
            Self::Bytes(before) => {
                if read_regular(file, LARGEST_RECORD).ok().as_ref() != Some(before) {
                    let _ = write_atomically(file, before);
                }
            }
            Self::Nothing => {
                let _ = fs::remove_file(file);
            }
            Self::Unknown => {}
        }
    }
}

/// The lock on a folder, if its file system has locks.
fn lock(folder: &Path) -> Result<Option<FolderLock>, TrainError> {
    match FolderLock::try_take(folder) {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(TrainError::Run(format!(
            "another kiln is training in {} at this moment: wait until it ends, or choose another --out",
            folder.display()
        ))),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Refuses a folder that is not a run folder yet but has files with the names of ours.
fn refuse_foreign_files(run: &RunFolder, stage: &StageFolder) -> Result<(), TrainError> {
    let config = run.config();
    if fs::symlink_metadata(&config).is_ok() {
        return match run.is_ours() {
            true => Ok(()),
            false if is_of_a_training(stage) => Err(TrainError::Run(format!(
                "{} does not begin with `{WRITTEN_BY}`, by which kiln knows its own: put that line back to go on with the training, or choose another --out",
                config.display()
            ))),
            false => Err(in_the_way(&config)),
        };
    }
    let ours = [stage.metrics(), stage.curves(), stage.checkpoints()];
    match ours.iter().find(|path| is_something(path)) {
        Some(_) if is_of_a_training(stage) => Err(TrainError::Run(format!(
            "{} holds a training of kiln, but not the {} that says of what: put that back to go on with it, or choose another --out",
            run.path().display(),
            config.file_name().unwrap_or_default().display()
        ))),
        Some(foreign) => Err(in_the_way(foreign)),
        None => Ok(()),
    }
}

/// Whether kiln wrote the contents of a stage's folder, to judge by its checkpoints and metrics.
fn is_of_a_training(stage: &StageFolder) -> bool {
    let has_checkpoint = !CheckpointFolder::new(stage.checkpoints())
        .steps()
        .is_empty();
    has_checkpoint || beginning_of(&stage.metrics()).starts_with(FIRST_COLUMNS)
}

/// Whether there is something at a path, apart from an empty folder.
fn is_something(path: &Path) -> bool {
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    fs::symlink_metadata(path).is_ok() && !is_empty
}

/// Refuses to replace a file that is not ours by the classifier's weights.
fn refuse_foreign_weights(path: &Path) -> Result<(), TrainError> {
    // The header of our file begins with the facts about its training.
    let start = beginning_of(path);
    let is_ours = ["dataset", "seed", "steps", "version"]
        .iter()
        .all(|fact| start.contains(&format!("\"{fact}\":")));
    if is_ours || fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    Err(in_the_way(path))
}

fn in_the_way(file: &Path) -> TrainError {
    TrainError::Run(format!(
        "{} is in the way, and kiln did not write it: choose another --out, or move it away",
        file.display()
    ))
}

/// What is in a folder; nothing if there is none.
fn entries_of(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Removes leftovers of killed processes: only this process writes here now.
fn clear_leftovers(run: &RunFolder, stage: &StageFolder) -> Result<(), TrainError> {
    let checkpoints = stage.checkpoints();
    CheckpointFolder::new(checkpoints.clone())
        .clear_leftovers()
        .map_err(TrainError::file("clear", &checkpoints))?;
    let pictures = PICTURES.map(|kind| stage.path().join(kind));
    let folders = [run.path().to_owned(), stage.path().to_owned()];
    let latents = entries_of(&run.all_latents());
    for folder in folders.iter().chain(&latents).chain(&pictures) {
        let is_of_pictures = pictures.contains(folder);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_picture = name.starts_with("step-") && name.ends_with(".partial");
            let is_weights = folder == run.path() && name == UNFINISHED_WEIGHTS;
            let is_ours = is_temporary(&name) || is_of_pictures && is_picture || is_weights;
            if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let path = entry.path();
                fs::remove_file(&path).map_err(TrainError::file("remove", &path))?;
            }
        }
    }
    Ok(())
}
