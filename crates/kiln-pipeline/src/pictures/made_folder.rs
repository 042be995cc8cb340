//! Folders for what is still to come, which go away again if nothing comes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder that is to be written to. Dropped, it goes away if it is still empty and was made for this, and so do those that
/// were made for it to lie in.
#[derive(Debug)]
#[must_use = "dropped, it removes the folder"]
pub struct MadeFolder {
    path: PathBuf,
    /// What was made, outermost first.
    made: Vec<PathBuf>,
}

impl MadeFolder {
    /// Makes the folder `path`, and those that it lies in, as far as they are not there.
    ///
    /// # Errors
    /// When something else stands there, or the place is not writable.
    pub fn make(path: &Path) -> io::Result<Self> {
        let folder = Self {
            path: path.to_owned(),
            made: missing(path),
        };
        fs::create_dir_all(path)?;
        Ok(folder)
    }

    /// Makes the folder `path`, in one that is there.
    ///
    /// # Errors
    /// When something stands there already, or the place is not writable.
    pub fn make_new(path: PathBuf) -> io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self {
            made: vec![path.clone()],
            path,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for MadeFolder {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // Fails for those that are not empty, which stay.
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
