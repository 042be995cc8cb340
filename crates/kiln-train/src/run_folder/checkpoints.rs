//! Checkpoints: everything that a stage needs to continue as if it had never stopped.
//!
//! ```text
//! checkpoints/step-0001500/
//!   model.bpk        the trained module: network, EMA, codebook averages
//!   optimizer.bpk    AdamW's moments
//!   scheduler.bpk    the learning rate's position
//!   checkpoint.json  the cursor, what is learnt from what, what the best one has least of, and the sha256 of each file
//! ```
//!
//! A checkpoint is written under a temporary name and renamed when it is complete, so a kill at any moment leaves
//! either all of it or nothing. The digests reveal later damage.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use kiln_pipeline::plots::Rows;

use crate::error::TrainError;
use crate::run_folder::identity::Identity;
use crate::run_folder::manifest::{MANIFEST, Manifest};
use crate::run_folder::sync_folder;

/// The files of a checkpoint, in the order of the Learner's checkpointers.
pub(crate) const PARTS: [&str; 3] = ["model.bpk", "optimizer.bpk", "scheduler.bpk"];

/// The name of a checkpoint until it is complete.
const WRITING: &str = ".writing";

/// The checkpoints of one stage in one run folder.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointFolder {
    path: PathBuf,
    /// Steps of checkpoints that this process wrote or verified.
    whole: Arc<Mutex<BTreeSet<usize>>>,
}

/// A checkpoint on disk with undamaged files.
#[derive(Debug, Clone)]
pub(crate) struct GoodCheckpoint {
    pub(crate) step: usize,
    /// The version of kiln that wrote it.
    pub(crate) kiln: String,
    pub(crate) identity: Option<Identity>,
    /// Rows that may be missing in `metrics.csv`.
    pub(crate) rows: Rows,
    /// Whether a stop came before the end of its validation.
    pub(crate) owes_validation: bool,
    folder: PathBuf,
}

impl GoodCheckpoint {
    /// The checkpoint in `folder`, or a sentence that says what is wrong with it.
    pub(crate) fn open(folder: &Path) -> Result<Self, String> {
        let manifest = verify(folder)?;
        Ok(Self {
            step: manifest.step,
            kiln: manifest.kiln,
            identity: manifest.identity,
            rows: manifest.rows,
            owes_validation: manifest.owes_validation,
            folder: folder.to_owned(),
        })
    }

    /// The record of the trained module.
    pub(crate) fn module(&self) -> Result<Bytes, String> {
        let [module, ..] = PARTS;
        self.part(module)
            .map_err(|error| format!("{module}: {error}"))
    }

    /// One of the [`PARTS`].
    pub(crate) fn part(&self, name: &str) -> std::io::Result<Bytes> {
        std::fs::read(self.folder.join(name)).map(Bytes::from_bytes_vec)
    }

    /// Checks that the checkpoint has exactly the weights of `model`. Otherwise Burn would panic.
    ///
    /// # Errors
    /// If the checkpoint belongs to another network.
    pub(crate) fn require_weights_of<M: Module>(&self, model: &M) -> Result<(), TrainError> {
        let unreadable = |reason| TrainError::Run(format!("{}: {reason}", self.folder.display()));
        let record = ModuleRecord::from_bytes(self.module().map_err(unreadable)?);
        let loaded = record.and_then(|record| model.clone().try_load_record(record));
        loaded.map(drop).map_err(|_| {
            TrainError::Run(format!(
                "the checkpoint {} holds other weights than the experiment trains: resume with the experiment that it began with, or choose another --out",
                self.folder.display()
            ))
        })
    }
}

impl CheckpointFolder {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            path: folder,
            whole: Arc::default(),
        }
    }

    /// Checks that no folder has the name of one of the files, because the file could then not be written.
    ///
    /// # Errors
    /// Names the folder.
    pub(crate) fn require_files(&self) -> Result<(), TrainError> {
        let mut files = (self.steps().into_iter()).flat_map(|step| files_in(&self.path(step)));
        match files.find(|file| file.is_dir()) {
            None => Ok(()),
            Some(folder) => Err(TrainError::Run(format!(
                "{} is a folder where a file of a checkpoint belongs: move it away",
                folder.display()
            ))),
        }
    }

    /// Removes the parts of a checkpoint that a killed process left.
    pub(crate) fn clear_leftovers(&self) -> std::io::Result<()> {
        remove(&self.path.join(WRITING))
    }

    /// Steps of all existing checkpoints, damaged or not, oldest first. A folder without any of their files is not a
    /// checkpoint.
    pub(crate) fn steps(&self) -> Vec<usize> {
        let entries = std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten();
        let mut steps: Vec<usize> = entries
            .filter(|entry| files_in(&entry.path()).any(|file| file.exists()))
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse()
                    .ok()
            })
            .collect();
        steps.sort_unstable();
        steps
    }

    /// The newest undamaged checkpoint. Damaged ones are skipped with a warning.
    pub(crate) fn newest_good(&self) -> Option<GoodCheckpoint> {
        self.steps().into_iter().rev().find_map(|step| {
            let folder = self.path(step);
            match GoodCheckpoint::open(&folder) {
                Ok(checkpoint) => Some(checkpoint),
                Err(reason) => {
                    tracing::warn!(
                        "skipping the damaged checkpoint {}: {reason}",
                        folder.display()
                    );
                    None
                }
            }
        })
    }

    /// The folder of a step's checkpoint.
    pub(crate) fn path(&self, step: usize) -> PathBuf {
        self.path.join(format!("step-{step:07}"))
    }

    /// Whether the checkpoint of this step is undamaged. Files are read once.
    fn is_whole(&self, step: usize) -> bool {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if !whole.contains(&step) && verify(&self.path(step)).is_ok() {
            whole.insert(step);
        }
        whole.contains(&step)
    }

    /// The step of the undamaged checkpoint with the smallest criterion.
    pub(crate) fn best(&self) -> Option<usize> {
        self.best_of(&self.steps())
    }

    fn best_of(&self, steps: &[usize]) -> Option<usize> {
        let criterion = |step| Manifest::read(&self.path(step)).ok()?.criterion;
        let mut measured: Vec<(f64, usize)> = (steps.iter())
            .filter_map(|&step| Some((criterion(step)?, step)))
            .collect();
        measured.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut best_first = measured.into_iter().map(|(_, step)| step);
        best_first.find(|&step| self.is_whole(step))
    }

    /// Writes one checkpoint, then removes those that are neither among the `keep` newest nor the best.
    pub(crate) fn write(
        &self,
        manifest: Manifest,
        parts: &BTreeMap<&'static str, Bytes>,
        keep: usize,
    ) -> std::io::Result<()> {
        let folder = self.path(manifest.step);
        if let Ok(before) = verify(&folder) {
            // A resume has done nothing yet but what was owed, or was stopped again before that.
            let is_news =
                before.owes_validation && (!manifest.owes_validation || before.criterion.is_none());
            if is_news {
                let step = manifest.step;
                let files = before.files;
                self.replace_manifest(Manifest { files, ..manifest })?;
                self.prune(keep, step)?;
            }
            return Ok(());
        }
        self.clear_leftovers()?;
        let temporary = self.path.join(WRITING);
        std::fs::create_dir_all(&temporary)?;
        let written = fill(&temporary, &manifest, parts).and_then(|()| {
            remove(&folder)?; // damaged, because a good one would have been kept
            if folder.exists() {
                // The folder has files that kiln did not write.
                for (from, to) in files_in(&temporary).zip(files_in(&folder)) {
                    std::fs::rename(from, to)?;
                }
                sync_folder(&folder)?;
                remove(&temporary)?;
            } else {
                std::fs::rename(&temporary, &folder)?;
            }
            sync_folder(&self.path)
        });
        if written.is_err() {
            // Best effort: the returned error is the one that matters.
            let _ = remove(&temporary);
        }
        written?;
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.insert(manifest.step);
        drop(whole);
        self.prune(keep, manifest.step)
    }

    /// Writes what a whole checkpoint says of itself again.
    fn replace_manifest(&self, manifest: Manifest) -> std::io::Result<()> {
        self.clear_leftovers()?;
        let temporary = self.path.join(WRITING);
        std::fs::create_dir_all(&temporary)?;
        let folder = self.path(manifest.step);
        let replace = || {
            let (new, old) = (temporary.join(MANIFEST), folder.join(MANIFEST));
            write_synced(&new, manifest.to_text()?.as_bytes())?;
            std::fs::rename(new, old)?;
            sync_folder(&folder)
        };
        let replaced = replace();
        remove(&temporary).and(replaced)
    }

    /// Counts the undamaged checkpoints up to step `last`, the one just written. Later ones are damaged, because the
    /// training would otherwise have continued from them. They stay until the training reaches their steps again.
    fn prune(&self, keep: usize, last: usize) -> std::io::Result<()> {
        let mut steps = self.steps();
        steps.retain(|&step| step <= last);
        let newest = steps.iter().rev().filter(|&&step| self.is_whole(step));
        let mut kept: BTreeSet<usize> = newest.copied().take(keep.max(1)).collect();
        kept.extend(self.best_of(&steps));
        for step in steps.into_iter().filter(|step| !kept.contains(step)) {
            remove(&self.path(step))?;
        }
        Ok(())
    }
}

/// The files of a checkpoint in `folder`. The last one completes it.
fn files_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let names = PARTS.into_iter().chain([MANIFEST]);
    let folder = folder.to_owned();
    names.map(move |name| folder.join(name))
}

/// Removes the checkpoint in `folder`, damaged or not. Other files there stay, and the folder with them.
fn remove(folder: &Path) -> std::io::Result<()> {
    let unless = |kinds: &[ErrorKind], outcome: std::io::Result<()>| match outcome {
        Err(error) if !kinds.contains(&error.kind()) => Err(error),
        _ => Ok(()),
    };
    for file in files_in(folder) {
        unless(&[ErrorKind::NotFound], std::fs::remove_file(file))?;
    }
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::DirectoryNotEmpty,
        ErrorKind::NotADirectory, // a link to another place
    ];
    unless(&kinds, std::fs::remove_dir(folder))
}

fn fill(
    folder: &Path,
    manifest: &Manifest,
    parts: &BTreeMap<&'static str, Bytes>,
) -> std::io::Result<()> {
    for (name, bytes) in parts {
        write_synced(&folder.join(name), bytes)?;
    }
    write_synced(&folder.join(MANIFEST), manifest.to_text()?.as_bytes())?;
    sync_folder(folder)
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// The manifest of the checkpoint in `folder`, after a check of its files.
fn verify(folder: &Path) -> Result<Manifest, String> {
    let manifest = Manifest::read(folder)?;
    manifest.verify(folder)?;
    Ok(manifest)
}

/// Whether `folder` is a checkpoint of a training, damaged or not.
pub(crate) fn is_checkpoint(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

#[cfg(test)]
mod tests {
    use kiln_data::sha256;

    use super::*;

    fn write(folder: &CheckpointFolder, step: usize, loss: impl Into<Option<f64>>, keep: usize) {
        let loss = loss.into();
        let parts: BTreeMap<_, _> = PARTS
            .iter()
            .map(|&name| {
                (
                    name,
                    Bytes::from_bytes_vec(format!("{name} {step}").into_bytes()),
                )
            })
            .collect();
        let files = parts
            .iter()
            .map(|(name, bytes)| (name.to_string(), sha256(bytes)))
            .collect();
        let manifest = Manifest {
            step,
            criterion: loss,
            owes_validation: loss.is_none(),
            kiln: "test".into(),
            identity: None,
            devices: None,
            seconds_a_step: None,
            rows: Rows::new(),
            files,
        };
        folder.write(manifest, &parts, keep).unwrap();
    }

    #[test]
    fn keeps_the_newest_and_the_best() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().join("checkpoints"));
        for (step, loss) in [(10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5), (50, 2.6)] {
            write(&folder, step, loss, 2);
        }
        assert_eq!(folder.steps(), [20, 40, 50]);
        assert_eq!(folder.newest_good().unwrap().step, 50);
        assert_eq!(folder.best(), Some(20));
    }

    #[test]
    fn a_validation_that_was_owed_is_noted_later_and_counts() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().join("checkpoints"));
        write(&folder, 10, 2.0, 1);
        write(&folder, 20, None, 1);
        assert_eq!((folder.steps(), folder.best()), (vec![10, 20], Some(10)));
        assert!(folder.newest_good().unwrap().owes_validation);
        write(&folder, 20, None, 1); // stopped again
        assert!(folder.newest_good().unwrap().owes_validation);
        write(&folder, 20, 1.0, 1);
        assert_eq!((folder.steps(), folder.best()), (vec![20], Some(20)));
        assert!(!folder.newest_good().unwrap().owes_validation);
        // Nothing is owed now.
        write(&folder, 20, 3.0, 1);
        write(&folder, 30, 2.0, 1);
        assert_eq!((folder.steps(), folder.best()), (vec![20, 30], Some(20)));
        assert!(!folder.path.join(WRITING).exists());
    }

    #[test]
    fn passes_over_damage_of_every_kind() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().to_owned());
        for step in [10, 20, 30, 40, 50] {
            write(&folder, step, 1.0, 9);
        }
        std::fs::write(folder.path(50).join("model.bpk"), "cut").unwrap();
        std::fs::remove_file(folder.path(40).join("optimizer.bpk")).unwrap();
        std::fs::write(folder.path(30).join(MANIFEST), "{").unwrap();
        let changed = folder.path(20).join(MANIFEST);
        let text = std::fs::read_to_string(&changed).unwrap();
        std::fs::write(changed, text.replace("1.0", "1.5")).unwrap();
        std::fs::create_dir(folder.path.join(WRITING)).unwrap();
        assert_eq!(folder.newest_good().unwrap().step, 10);
    }

    #[test]
    fn damage_never_takes_the_place_of_a_checkpoint_that_is_whole() {
        for keep in [1, 2] {
            let place = tempfile::tempdir().unwrap();
            let folder = || CheckpointFolder::new(place.path().to_owned());
            for step in [10, 20, 30] {
                write(&folder(), step, 1.0 / step as f64, 9);
            }
            for damaged in [20, 30] {
                std::fs::write(folder().path(damaged).join("model.bpk"), "cut").unwrap();
            }
            // As after a resume from step 10.
            write(&folder(), 15, 1.0, keep);
            assert_eq!(folder().newest_good().unwrap().step, 15, "keep {keep}");
            write(&folder(), 25, 2.0, keep);
            let whole: &[usize] = if keep == 1 { &[10, 25] } else { &[10, 15, 25] };
            assert_eq!(folder().steps(), [whole, &[30]].concat(), "keep {keep}");
            write(&folder(), 30, 3.0, keep);
            assert_eq!(folder().newest_good().unwrap().step, 30, "keep {keep}");
        }
    }

    #[test]
    fn what_somebody_put_beside_a_checkpoint_stays() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().to_owned());
        let notes = folder.path(10).join("notes.txt");
        write(&folder, 10, 3.0, 1);
        std::fs::write(&notes, "years of work").unwrap();
        write(&folder, 20, 2.0, 1);
        assert_eq!(folder.steps(), [20]);
        let left: Vec<_> = std::fs::read_dir(folder.path(10)).unwrap().collect();
        assert_eq!(left.len(), 1);
        // A training that reaches the step again writes beside the other file, and replaces a damaged checkpoint.
        for damage in [None, Some("checkpoint.json")] {
            if let Some(file) = damage {
                std::fs::write(folder.path(10).join(file), "cut").unwrap();
            }
            write(&folder, 10, 1.0, 9);
            assert_eq!(folder.steps(), [10, 20]);
            assert!(GoodCheckpoint::open(&folder.path(10)).is_ok());
        }
        assert_eq!(std::fs::read_to_string(notes).unwrap(), "years of work");
        assert!(!place.path().join(WRITING).exists());
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_named() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().to_owned());
        write(&folder, 10, 1.0, 9);
        folder.require_files().unwrap();
        let file = folder.path(10).join("model.bpk");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let sentence = folder.require_files().unwrap_err().to_string();
        assert!(sentence.contains("model.bpk is a folder"), "{sentence}");
    }

    #[test]
    fn an_absent_folder_has_no_checkpoints() {
        assert!(
            CheckpointFolder::new("does/not/exist".into())
                .newest_good()
                .is_none()
        );
    }

    #[test]
    fn the_same_step_can_be_saved_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::new(place.path().to_owned());
        write(&folder, 10, 1.0, 2);
        write(&folder, 10, 1.0, 2);
        assert_eq!(folder.steps(), [10]);
    }
}
