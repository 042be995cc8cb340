//! Folders for future files, which are removed again if no file is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder for files. Dropping this removes the folder if it was made for this and is still empty, and the parent
/// folders that were made for it, too.
#[derive(Debug)]
#[must_use = "dropped, it removes the folder"]
pub struct MadeFolder {
    path: PathBuf,
    /// The new folders, outermost first.
    made: Vec<PathBuf>,
}

impl MadeFolder {
    /// Makes the folder `path` and its parents, if they do not exist.
    ///
    /// # Errors
    /// If something else is there, or the place is not writable.
    pub fn make(path: &Path) -> io::Result<Self> {
        let folder = Self {
            path: path.to_owned(),
            made: missing(path),
        };
        fs::create_dir_all(path)?;
        Ok(folder)
    }

    /// Makes the folder `path` in an existing folder.
    ///
    /// # Errors
    /// If something is already there, or the place is not writable.
    pub fn make_new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self {
            made: vec![path.clone()],
            path,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // This fails for folders that are not empty, so they stay.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The folders that have to be made for `path`, outermost first.
fn missing(path: &Path) -> Vec<PathBuf> {
    let outwards = path.ancestors();
    let missing = outwards.take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
    missing.reverse();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_and_is_empty_goes_away() {
        let place = tempfile::tempdir().unwrap();
        let there = place.path().join("there");
        fs::create_dir(&there).unwrap();
        drop(MadeFolder::make(&there).unwrap());
        assert!(there.is_dir());

        drop(MadeFolder::make(&there.join("a/b")).unwrap());
        assert!(!there.join("a").exists());

        let made = MadeFolder::make(&there.join("a/b")).unwrap();
        fs::write(there.join("a/file"), "").unwrap();
        drop(made);
        assert!(there.join("a/file").is_file() && !there.join("a/b").exists());

        let sentence = MadeFolder::make(&there.join("a/file/b"));
        assert!(sentence.is_err() && there.join("a/file").is_file());
    }
}
