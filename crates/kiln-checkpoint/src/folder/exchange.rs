//! Replaces an old folder by a new one.
//!
//! ```text
//! .kiln-new-AbC123/     locked as long as the program that made it lives
//!   for                 the name of the folder that is being written
//!   new/                the folder that will get that name
//!   replaced/           the old folder, if the file system cannot exchange two names at once
//! ```
//!
//! A killed program leaves its hidden folder, without a lock. The next program that writes beside it removes it, and
//! gives the replaced folder its name back if the name is free.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use kiln_data::FolderLock;
use tempfile::TempDir;

const PREFIX: &str = ".kiln-new-";
const FOR: &str = "for";
const NEW: &str = "new";
const REPLACED: &str = "replaced";
/// The beginning of [`FOR`], so that another program's folder is not mistaken for ours.
const SIGNATURE: &str = "kiln writes ";
/// How often to make the hidden folder again if another program mistakes it for a leftover before it is locked.
const ATTEMPTS: usize = 8;

/// The hidden folder in which a new one is written. It is removed when dropped.
pub(super) struct HiddenFolder {
    folder: TempDir,
    is_kept: bool,
    /// Holds the lock; `None` if the file system has no locks.
    _lock: Option<FolderLock>,
}

impl HiddenFolder {
    /// A hidden folder beside `place`, whose parent exists.
    pub(super) fn beside(place: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let mut attempts = 0;
        let hidden = loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let lock = FolderLock::try_take(folder.path());
            let is_taken = matches!(lock, Err(TryLockError::WouldBlock));
            attempts += 1;
            if !is_taken && folder.path().exists() || attempts == ATTEMPTS {
                let _lock = lock.ok();
                break Self {
                    folder,
                    is_kept: false,
                    _lock,
                };
            }
        };
        let mut file = File::create(hidden.folder.path().join(FOR))?;
        write!(file, "{SIGNATURE}{}", name.to_string_lossy())?;
        file.sync_all()?;
        fs::create_dir(hidden.new_folder())?;
        Ok(hidden)
    }

    pub(super) fn new_folder(&self) -> PathBuf {
        self.folder.path().join(NEW)
    }

    /// Gives the new folder the name `place`, and removes the folder that had it.
    pub(super) fn take_the_place_of(mut self, place: &Path) -> io::Result<()> {
        let new = self.new_folder();
        sync_folders(&new)?;
        if fs::symlink_metadata(place).is_err() {
            fs::rename(&new, place)?;
        } else if !exchange(&new, place)? {
            let replaced = self.folder.path().join(REPLACED);
            fs::rename(place, &replaced)?;
            if let Err(problem) = fs::rename(&new, place) {
                if fs::rename(&replaced, place).is_err() {
                    // The next program restores its name.
                    self.folder.disable_cleanup(true);
                    self.is_kept = true;
                }
                return Err(problem);
            }
        }
        place.parent().map_or(Ok(()), sync)
    }
}

impl Drop for HiddenFolder {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        empty(self.folder.path());
        if self.new_folder().exists() || self.folder.path().join(REPLACED).exists() {
            tracing::warn!(
                "cannot remove {}, which is no longer needed: remove it yourself",
                self.folder.path().display()
            );
        }
    }
}

/// Removes everything but the file with the name, which identifies a hidden folder as ours if we are killed now.
fn empty(hidden: &Path) {
    for part in [NEW, REPLACED] {
        let _ = fs::remove_dir_all(hidden.join(part));
    }
}

/// Exchanges the names of two folders atomically. False if the system or the file system cannot.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(problem) => Err(problem.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exchange(_one: &Path, _other: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Removes the hidden folders that killed programs left in `parent`; a folder that lost its name gets it back.
///
/// Best effort: a remaining folder does no harm.
pub(super) fn clear_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let hidden = entry.path();
        // The program that writes in it holds its lock.
        let Ok(_lock) = FolderLock::try_take(&hidden) else {
            continue;
        };
        if let Some(name) = name_in(&hidden) {
            let (replaced, place) = (hidden.join(REPLACED), parent.join(name));
            if fs::symlink_metadata(&replaced).is_ok() {
                if fs::symlink_metadata(&place).is_err() && fs::rename(&replaced, &place).is_err() {
                    continue;
                }
                tracing::warn!(
                    "kiln was killed while it replaced {}; the old folder is restored",
                    place.display()
                );
            }
            empty(&hidden);
            let _ = fs::remove_file(hidden.join(FOR));
            let _ = fs::remove_dir(&hidden);
        } else if fs::metadata(hidden.join(FOR)).is_ok_and(|file| file.len() == 0) {
            let _ = fs::remove_file(hidden.join(FOR));
            let _ = fs::remove_dir(&hidden);
        } else {
            // Only if it is empty.
            let _ = fs::remove_dir(&hidden);
        }
    }
}

/// The name of the folder that was being written in `hidden`, if `hidden` is ours.
fn name_in(hidden: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(hidden.join(FOR)).ok()?;
    let name = PathBuf::from(text.strip_prefix(SIGNATURE)?);
    let mut components = name.components();
    let is_name = matches!(components.next(), Some(Component::Normal(_)));
    (is_name && components.next().is_none()).then_some(name)
}

/// Syncs the names in a folder and its subfolders to disk. Their files are already on disk.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        }
    }
    sync(folder)
}

/// Syncs the names in a folder to disk, if the system can.
fn sync(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            // On Windows a lock is a file.
            .filter(|name| !name.ends_with(".kiln-lock"))
            .collect();
        names.sort();
        names
    }

    /// The remains in `around` of a program that was killed while it wrote `model`.
    fn killed(around: &Path, parts: &[&str]) -> PathBuf {
        let hidden = around.join(".kiln-new-AbC123");
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join(FOR), format!("{SIGNATURE}model")).unwrap();
        for part in parts {
            fs::create_dir(hidden.join(part)).unwrap();
            fs::write(hidden.join(part).join("weights"), *part).unwrap();
        }
        hidden
    }

    #[test]
    fn leftovers_go_away_whenever_the_program_was_killed() {
        for parts in [&[][..], &[NEW], &[NEW, REPLACED]] {
            let around = tempfile::tempdir().unwrap();
            fs::create_dir(around.path().join("model")).unwrap();
            killed(around.path(), parts);
            clear_leftovers(around.path());
            assert_eq!(names(around.path()), ["model"], "{parts:?}");
        }
        let around = tempfile::tempdir().unwrap();
        fs::create_dir(around.path().join(".kiln-new-empty1")).unwrap();
        fs::create_dir(around.path().join(".kiln-new-begun1")).unwrap();
        fs::write(around.path().join(".kiln-new-begun1").join(FOR), "").unwrap();
        clear_leftovers(around.path());
        assert_eq!(names(around.path()), [""; 0]);
    }

    #[test]
    fn a_folder_that_lost_its_name_gets_it_back() {
        let around = tempfile::tempdir().unwrap();
        killed(around.path(), &[NEW, REPLACED]);
        clear_leftovers(around.path());
        assert_eq!(names(around.path()), ["model"]);
        let weights = fs::read_to_string(around.path().join("model/weights"));
        assert_eq!(weights.unwrap(), REPLACED);
    }

    #[test]
    fn what_is_in_use_or_somebody_elses_stays() {
        let around = tempfile::tempdir().unwrap();
        let alive = HiddenFolder::beside(&around.path().join("model")).unwrap();
        let foreign = around.path().join(".kiln-new-notes");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("notes.txt"), "years of work").unwrap();
        fs::write(around.path().join(".kiln-new-file"), "a file").unwrap();
        clear_leftovers(around.path());
        assert_eq!(names(around.path()).len(), 3);
        drop(alive);
        assert_eq!(names(around.path()), [".kiln-new-file", ".kiln-new-notes"]);
    }

    #[test]
    fn both_ways_to_replace_leave_the_new_folder_alone() {
        let around = tempfile::tempdir().unwrap();
        let place = around.path().join("model");
        for weights in ["first", "second", "third"] {
            let hidden = HiddenFolder::beside(&place).unwrap();
            fs::write(hidden.new_folder().join("weights"), weights).unwrap();
            hidden.take_the_place_of(&place).unwrap();
            assert_eq!(fs::read_to_string(place.join("weights")).unwrap(), weights);
            assert_eq!(names(around.path()), ["model"]);
        }
    }
}
