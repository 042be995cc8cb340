//! A file that is read again later.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::time::SystemTime;

/// An open file that is not read any more once somebody has written to it. A file that was put in its place does not
/// matter.
#[derive(Debug)]
pub struct UnchangedFile {
    file: File,
    /// Its length and the time of the last change, when it was opened.
    opened: (u64, Option<SystemTime>),
}

impl UnchangedFile {
    /// From now on it must not change.
    ///
    /// # Errors
    /// If the system does not tell its length.
    pub fn new(file: File) -> io::Result<Self> {
        let opened = state(&file.metadata()?);
        Ok(Self { file, opened })
    }
}

/// The length, and the time of the last change where the system knows it.
fn state(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

impl Read for UnchangedFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for UnchangedFile {
    /// # Errors
    /// Also if the file has changed.
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        if state(&self.file.metadata()?) != self.opened {
            return Err(io::Error::other("the file has changed since it was opened"));
        }
        self.file.seek(place)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn contents(file: &mut UnchangedFile) -> io::Result<String> {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_changed_file_is_refused_and_a_replaced_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "first").unwrap();
        let mut file = UnchangedFile::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(contents(&mut file).unwrap(), "first");

        let other = folder.path().join("other");
        fs::write(&other, "a longer one").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(contents(&mut file).unwrap(), "first");

        let mut file = UnchangedFile::new(File::open(&path).unwrap()).unwrap();
        fs::write(&path, "shorter").unwrap();
        assert!(contents(&mut file).is_err());

        let mut file = UnchangedFile::new(File::open(&path).unwrap()).unwrap();
        let written = File::options().write(true).open(&path).unwrap();
        let later = SystemTime::now() + Duration::from_secs(1);
        written.set_modified(later).unwrap();
        assert!(contents(&mut file).is_err(), "as long as before");
    }
}
