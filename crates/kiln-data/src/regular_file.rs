//! Files that are read completely: configs, images, weights, caches. The path may be something else than a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file. Refuses paths that would wait for a writer or have no end, such as a pipe or a device.
///
/// # Errors
/// Those of the system; and anything that is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    match found.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is a device or a pipe, not a file")),
    }
}

/// The bytes of a regular file of at most `largest` bytes. A larger one is not read.
///
/// # Errors
/// Those of [`open_regular`], and [`ErrorKind::FileTooLarge`].
pub fn read_regular(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    if length > largest {
        let problem = format!("it has {length} bytes, more than such a file can have");
        return Err(io::Error::new(ErrorKind::FileTooLarge, problem));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize)?;
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_their_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_regular(&path, 4).unwrap(), b"four");
        // A hole takes no room on the disk, but would take all of the memory.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        for (path, largest) in [(path.as_path(), 1 << 20), (folder.path(), u64::MAX)] {
            assert!(read_regular(path, largest).is_err());
        }
        let absent = read_regular(&folder.path().join("absent"), 1).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero")] {
            let refusal = open_regular(path).unwrap_err().to_string();
            assert_eq!(refusal, "it is a device or a pipe, not a file");
        }
    }
}
