//! One way to list and read the files of a folder, a zip archive and a tar archive.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::{DeflateDecoder, MultiGzDecoder};
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
    Memory(Arc<[u8]>),
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
            Self::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
        }
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
