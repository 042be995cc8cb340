//! One way to list and read the files of a folder, a zip archive and a tar archive.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use tempfile::TempPath;
use zip::CompressionMethod;

use crate::error::DataError;

/// A larger file than this is not an image, and may be an attempt to fill the memory.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// A tar archive is kept in memory, because it cannot be read out of order; a larger one has to be unpacked.
const MAX_TAR_BYTES: u64 = 4 << 30;

/// One file of a folder or an archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its path below the folder or in the archive, with `/` between the parts.
    pub(crate) name: String,
    pub(crate) content: Content,
}

impl Entry {
    /// The last part of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    File(PathBuf),
    Zipped(Zipped),
    Stretch(Stretch),
    Memory(Arc<[u8]>),
}

/// A stretch of a temporary file, which goes away with the last one that is in it.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) file: Arc<TempPath>,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// A stretch of a zip archive. Reading it opens the archive anew, so that all cores can read at once.
#[derive(Clone, Debug)]
pub(crate) struct Zipped {
    archive: Arc<Path>,
    start: u64,
    compressed_len: u64,
    len: u64,
    crc32: u32,
    method: CompressionMethod,
}

impl Content {
    /// All the bytes, at most 256 MiB of them.
    pub(crate) fn read(&self) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Self::File(path) => read_at_most(File::open(path)?, MAX_FILE_BYTES).map(Cow::Owned),
            Self::Zipped(zipped) => zipped.read().map(Cow::Owned),
            Self::Stretch(stretch) => stretch.read().map(Cow::Owned),
            Self::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    }
}

impl Stretch {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&*self.file)?;
        file.seek(SeekFrom::Start(self.start))?;
        read_at_most(file.take(self.len), MAX_FILE_BYTES)
    }
}

impl Zipped {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut archive = File::open(&self.archive)?;
        archive.seek(SeekFrom::Start(self.start))?;
        let compressed = archive.take(self.compressed_len);
        let limit = self.len.min(MAX_FILE_BYTES);
        let bytes = match self.method {
            CompressionMethod::Stored => read_at_most(compressed, limit)?,
            CompressionMethod::Deflated => {
                read_at_most(DeflateDecoder::new(BufReader::new(compressed)), limit)?
            }
            _ => return Err(io::Error::other("it is neither stored nor deflated")),
        };
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes);
        if bytes.len() as u64 != self.len || checksum.sum() != self.crc32 {
            return Err(io::Error::other(
                "its checksum in the archive does not match",
            ));
        }
        Ok(bytes)
    }
}

/// Reads to the end, and fails where there is more than `limit` bytes: what a header says is not believed.
pub(crate) fn read_at_most(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Lists the files of the folder, zip or (gzipped) tar at `path`, sorted by name, without hidden ones.
pub(crate) fn list(path: &Path) -> Result<Vec<Entry>, DataError> {
    let metadata = fs::metadata(path).map_err(|error| DataError::reading(path, error))?;
    let mut entries = if metadata.is_dir() {
        list_folder(path)?
    } else {
        list_archive(path)?
    };
    entries.retain(|entry| !is_hidden(&entry.name));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// `.DS_Store`, `._picture.jpg`, `__MACOSX/...`: what a system leaves behind, not data.
fn is_hidden(name: &str) -> bool {
    name.split('/')
        .any(|part| part.starts_with('.') || part == "__MACOSX")
}

fn list_folder(folder: &Path) -> Result<Vec<Entry>, DataError> {
    let mut entries = Vec::new();
    for found in walkdir::WalkDir::new(folder).follow_links(true) {
        let found = found.map_err(|error| {
            let path = error.path().unwrap_or(folder).to_owned();
            DataError::Read {
                path,
                reason: io::Error::other(error),
            }
        })?;
        if found.file_type().is_file() {
            let relative = found.path().strip_prefix(folder).unwrap_or(found.path());
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            entries.push(Entry {
                name: parts.join("/"),
                content: Content::File(found.into_path()),
            });
        }
    }
    Ok(entries)
}

fn list_archive(path: &Path) -> Result<Vec<Entry>, DataError> {
    let read_error = |error| DataError::reading(path, error);
    let mut file = BufReader::new(File::open(path).map_err(read_error)?);
    let mut magic = Vec::new();
    file.by_ref()
        .take(4)
        .read_to_end(&mut magic)
        .map_err(read_error)?;
    file.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let is_tar = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("tar"));
    match magic.as_slice() {
        [b'P', b'K', ..] => list_zip(path, file),
        [0x1f, 0x8b, ..] => list_tar(path, MultiGzDecoder::new(file)),
        _ if is_tar => list_tar(path, file),
        _ => Err(DataError::Unexpected {
            path: path.to_owned(),
            expected: "a folder, a zip or a tar archive".to_owned(),
        }),
    }
}

fn list_zip(path: &Path, file: BufReader<File>) -> Result<Vec<Entry>, DataError> {
    let damaged = |error: zip::result::ZipError| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("the list of files in the zip cannot be read ({error})"),
    };
    let mut zip = zip::ZipArchive::new(file).map_err(damaged)?;
    let archive: Arc<Path> = path.into();
    let mut entries = Vec::with_capacity(zip.len());
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index).map_err(damaged)?;
        let (true, Some(start)) = (file.is_file(), file.data_start()) else {
            continue;
        };
        let zipped = Zipped {
            archive: archive.clone(),
            start,
            compressed_len: file.compressed_size(),
            len: file.size(),
            crc32: file.crc32(),
            method: file.compression(),
        };
        entries.push(Entry {
            name: String::from_utf8_lossy(file.name_raw()).replace('\\', "/"),
            content: Content::Zipped(zipped),
        });
    }
    Ok(entries)
}

fn list_tar(path: &Path, reader: impl Read) -> Result<Vec<Entry>, DataError> {
    let damaged = |error: io::Error| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("it cannot be unpacked ({error})"),
    };
    let mut entries = Vec::new();
    let mut kept = 0;
    for file in tar::Archive::new(reader).entries().map_err(damaged)? {
        let file = file.map_err(damaged)?;
        if !file.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&file.path_bytes())
            .trim_start_matches("./")
            .to_owned();
        let declared = file.size();
        let bytes = read_at_most(file, MAX_FILE_BYTES).map_err(damaged)?;
        if bytes.len() as u64 != declared {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        kept += declared;
        if kept > MAX_TAR_BYTES {
            return Err(DataError::Unexpected {
                path: path.to_owned(),
                expected: "a tar archive of less than 4 GiB (unpack it and pass the folder)"
                    .to_owned(),
            });
        }
        entries.push(Entry {
            name,
            content: Content::Memory(bytes.into()),
        });
    }
    Ok(entries)
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
            Ok(bytes) => Ok((entry.name.clone(), bytes.into_owned())),
            Err(error) => Err(error.to_string()),
        };
        list(path)
            .map_err(|error| error.to_string())?
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
        // Only plain tar needs its name: it starts with a file name.
        assert_eq!(
            list_bytes("no-extension", &gzip(&files.tar())).unwrap(),
            expected
        );
        assert_eq!(list_bytes("no-extension", &files.zip()).unwrap(), expected);
    }

    #[test]
    fn hidden_files_are_passed_by() {
        let mut files = some_files();
        for name in [".DS_Store", "a/._1.txt", "__MACOSX/a/1.txt", ".git/config"] {
            files.add(name, vec![1]);
        }
        assert_eq!(list(files.folder().path()).unwrap().len(), 3);
        assert_eq!(list_bytes("a.zip", &files.zip()).unwrap().len(), 3);
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
    #[cfg(unix)]
    fn links_are_followed_but_not_in_circles() {
        let folder = some_files().folder();
        std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("c")).unwrap();
        assert_eq!(list(folder.path()).unwrap().len(), 4);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a").join("up")).unwrap();
        assert!(matches!(list(folder.path()), Err(DataError::Read { .. })));
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
