//! Locks on folders, so that one belongs to one process at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

/// The lock of a folder. Dropping it releases the folder, and so does the system if the process is killed.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks an existing folder if no other process, and nothing else in this one, has done so.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] if it is locked; [`TryLockError::Error`] if the folder or its file system has no locks.
    pub fn try_take(folder: &Path) -> Result<Self, TryLockError> {
        Ok(Self {
            _file: locked(folder)?,
        })
    }

    /// Whether a process has locked `folder`. Asking takes the lock for an instant.
    pub fn is_taken(folder: &Path) -> bool {
        matches!(Self::try_take(folder), Err(TryLockError::WouldBlock))
    }
}

#[cfg(not(windows))]
fn locked(folder: &Path) -> Result<File, TryLockError> {
    let file = File::open(folder).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

/// Windows has no locks on folders. A file beside the folder stands for it: only one process can have the file open, and
/// the system removes it when it is closed.
#[cfg(windows)]
fn locked(folder: &Path) -> Result<File, TryLockError> {
    use std::ffi::OsString;
    use std::io::ErrorKind;
    use std::os::windows::fs::OpenOptionsExt;

    const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
    const GENERIC_WRITE: u32 = 0x4000_0000;
    const DELETE: u32 = 0x0001_0000;
    const ERROR_SHARING_VIOLATION: i32 = 32;

    // One name for all spellings of a path.
    let folder = folder.canonicalize().map_err(TryLockError::Error)?;
    let name = folder.file_name().ok_or(ErrorKind::InvalidInput);
    let mut lock = OsString::from(".");
    lock.push(name.map_err(|kind| TryLockError::Error(kind.into()))?);
    lock.push(".kiln-lock");
    let opened = File::options()
        .write(true)
        .create(true)
        .access_mode(GENERIC_WRITE | DELETE)
        .share_mode(0)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
        .open(folder.with_file_name(lock));
    opened.map_err(|problem| match problem.raw_os_error() {
        Some(ERROR_SHARING_VIOLATION) => TryLockError::WouldBlock,
        _ => TryLockError::Error(problem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_lock_at_a_time_and_no_traces_of_it() {
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("run");
        std::fs::create_dir(&folder).unwrap();
        let other = around.path().join("other");
        std::fs::create_dir(&other).unwrap();

        let lock = FolderLock::try_take(&folder).unwrap();
        let spelled_otherwise = folder.join("..").join("run");
        for path in [&folder, &spelled_otherwise] {
            let refused = FolderLock::try_take(path);
            assert!(matches!(refused, Err(TryLockError::WouldBlock)));
        }
        FolderLock::try_take(&other).unwrap();
        drop(lock);
        FolderLock::try_take(&folder).unwrap();
        for (folder, entries) in [(around.path(), 2), (&folder, 0)] {
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), entries);
        }
        let absent = FolderLock::try_take(&around.path().join("absent"));
        assert!(matches!(absent, Err(TryLockError::Error(_))));
    }
}
