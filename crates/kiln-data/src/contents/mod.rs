//! One interface to list and read the files of a folder, a zip archive and a tar archive.
//!
//! ```text
//! content.rs      what is found: files, and where the bytes of each are
//! disk.rs         the files below a folder
//! zip.rs, tar.rs  the files of an archive, without unpacking it
//! zipped.rs       one file of a zip
//! tree.rs         the targets of links within an archive
//! skipped.rs    the entries that are not used, and why
//! limits.rs       how much is read at most
//! spool.rs        files out of a stream, in a temporary file
//! ```

mod content;
mod disk;
mod gzip;
mod limits;
mod skipped;
mod spool;
mod tar;
mod tree;
mod zip;
mod zipped;

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::DataError;
use crate::kind::Kind;

pub(crate) use self::content::{Content, Entry, Listing};
pub(crate) use self::gzip::Gzip;
pub(crate) use self::limits::{MAX_FILE_BYTES, read_at_most, start_of, unpacked_limit};
pub(crate) use self::skipped::{Skipped, Why};
pub(crate) use self::spool::{Spool, Stretch};

/// Opens a data file, and returns its length.
///
/// A named pipe would make this wait, and a device has no end: both are refused without reading.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64), DataError> {
    let read_error = |error| DataError::reading(path, error);
    let metadata = fs::metadata(path).map_err(read_error)?;
    if !metadata.is_file() {
        let problem = if metadata.is_dir() {
            "is a folder: pass the file itself"
        } else {
            "is a device or a pipe, which training cannot read repeatedly: copy it to a file"
        };
        return Err(DataError::Unusable {
            path: path.to_owned(),
            problem: problem.to_owned(),
        });
    }
    let file = File::open(path).map_err(read_error)?;
    Ok((file, metadata.len()))
}

/// Lists the files of the folder, zip or (gzipped) tar at `path`, sorted by name, without hidden ones.
pub(crate) fn list(path: &Path) -> Result<Listing, DataError> {
    let metadata = fs::metadata(path).map_err(|error| DataError::reading(path, error))?;
    let mut listing = if metadata.is_dir() {
        disk::list(path)?
    } else {
        list_archive(path)?
    };
    listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

fn list_archive(path: &Path) -> Result<Listing, DataError> {
    let (file, len) = open_file(path)?;
    let mut file = BufReader::new(file);
    let read_error = |error| DataError::reading(path, error);
    let start = start_of(file.by_ref()).map_err(read_error)?;
    file.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let ends_in = |ending: &str| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension.eq_ignore_ascii_case(ending))
    };
    match Kind::of(&start) {
        Kind::Zip => zip::list(path, file),
        Kind::Gzip => tar::list_gzipped(path, file, len),
        Kind::Tar => tar::list(path, file, len),
        // A zip may begin with a self-extracting program, and a tar without files is all zeros.
        Kind::Other if ends_in("zip") => zip::list(path, file),
        Kind::Other if ends_in("tar") => tar::list(path, file, len),
        kind => Err(DataError::foreign(
            path,
            kind,
            "a folder, a zip or a tar archive",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{Files, gzip};
    use proptest::prelude::*;

    fn some_files() -> Files {
        let mut files = Files::default();
        files.add("b/2.txt", b"two".repeat(1000));
        files.add("a/1.txt", b"one".to_vec());
        files.add("empty", Vec::new());
        files
    }

    fn list_bytes(name: &str, bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        read_all(&path)
    }

    fn read_all(path: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
        let read = |entry: Entry| match entry.content.read() {
            Ok(bytes) => Ok((entry.name.clone(), bytes)),
            Err(error) => Err(error.to_string()),
        };
        list(path)
            .map_err(|error| error.to_string())?
            .entries
            .into_iter()
            .map(read)
            .collect()
    }

    #[test]
    fn folders_zips_and_tars_read_the_same() {
        let files = some_files();
        let expected: Vec<_> = files
            .iter()
            .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
            .collect();
        assert_eq!(read_all(files.folder().path()).unwrap(), expected);
        assert_eq!(list_bytes("a.zip", &files.zip()).unwrap(), expected);
        assert_eq!(list_bytes("a.tar", &files.tar()).unwrap(), expected);
        assert_eq!(list_bytes("a.tgz", &gzip(&files.tar())).unwrap(), expected);
        // The content decides the kind.
        assert_eq!(
            list_bytes("no-extension", &gzip(&files.tar())).unwrap(),
            expected
        );
        assert_eq!(list_bytes("a.png", &files.zip()).unwrap(), expected);
        assert_eq!(list_bytes("no-extension", &files.tar()).unwrap(), expected);
    }

    #[test]
    fn hidden_files_are_skipped() {
        let mut files = some_files();
        for name in [".DS_Store", "a/._1.txt", "__MACOSX/a/1.txt", ".git/config"] {
            files.add(name, vec![1]);
        }
        let listing = list(files.folder().path()).unwrap();
        assert_eq!(listing.entries.len(), 3);
        assert_eq!(
            listing.skipped.to_string().split(" (as").next(),
            Some("skipped 4 entries: 4 hidden")
        );
        assert_eq!(list_bytes("a.zip", &files.zip()).unwrap().len(), 3);
        assert_eq!(list_bytes("a.tar", &files.tar()).unwrap().len(), 3);
    }

    #[test]
    fn missing_and_foreign_paths_are_sentences() {
        let error = list(Path::new("no/such/path")).unwrap_err();
        assert!(matches!(error, DataError::Missing(_)));
        let error = list_bytes("a.txt", b"hello").unwrap_err();
        assert!(
            error.contains("a folder, a zip or a tar archive"),
            "{error}"
        );
        let error = list_bytes("a.zip", b"PK\x03\x04 and then nothing").unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
    }

    #[test]
    fn a_changed_byte_in_a_zip_is_noticed() {
        let mut files = Files::default();
        files.add("a", b"some stored or deflated content".to_vec());
        files.add("b", b"some other, stored this time".to_vec());
        let mut zip = files.zip();
        let place = zip
            .windows(6)
            .position(|window| window == b"stored")
            .unwrap();
        zip[place] ^= 1;
        assert!(list_bytes("a.zip", &zip).unwrap_err().contains("checksum"));
    }

    #[test]
    fn a_zip_bomb_is_not_inflated() {
        let bomb = vec![0; 4 << 20];
        let mut files = Files::default();
        files.add("bomb", bomb);
        let mut zip = files.zip();
        // The size is in the local and in the central header; both say 100 bytes now.
        let size = (4u32 << 20).to_le_bytes();
        for place in 0..zip.len() - 4 {
            if zip[place..place + 4] == size {
                zip[place..place + 4].copy_from_slice(&100u32.to_le_bytes());
            }
        }
        assert!(
            list_bytes("a.zip", &zip)
                .unwrap_err()
                .contains("larger than 100 bytes")
        );
    }

    #[test]
    fn a_tar_that_is_cut_short_is_damaged() {
        let tar = some_files().tar();
        let error = list_bytes("a.tar", &tar[..1000]).unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
        let packed = gzip(&tar);
        let error = list_bytes("a.tgz", &packed[..packed.len() - 20]).unwrap_err();
        assert!(error.contains("is damaged"), "{error}");
    }

    #[test]
    fn what_is_no_archive_says_what_it_is() {
        for (bytes, words) in [
            (&b""[..], "is empty"),
            (b"\xfd7zXZ\0\0", "packed with xz"),
            (b"BZh91AY&SY", "packed with bzip2"),
            (b"7z\xbc\xaf\x27\x1c", "packed with 7-Zip"),
            (b"<!doctype html><html>", "an HTML page"),
            (
                b"version https://git-lfs.github.com/spec/v1",
                "git lfs pull",
            ),
        ] {
            let error = list_bytes("data.tar.gz", bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("damaged"), "{error}");
        }
        let error = list_bytes("notes.gz", &gzip(b"no tar")).unwrap_err();
        assert!(error.contains("a tar archive within its gzip"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn devices_and_pipes_are_refused_at_once() {
        let error = list(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("is a device or a pipe"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_archives_do_no_harm(place in 0usize..600, value: u8, kept in 0usize..4000) {
            for (name, mut bytes) in [("a.zip", some_files().zip()), ("a.tar", some_files().tar())] {
                let place = place % bytes.len();
                bytes[place] = value;
                let _ = list_bytes(name, &bytes);
                bytes.truncate(kept);
                let _ = list_bytes(name, &bytes);
            }
        }
    }
}
