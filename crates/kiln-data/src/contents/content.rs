//! The files of a folder or an archive, and where the bytes of each are.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::limits::{MAX_FILE_BYTES, read_at_most, refuse_larger, start_of};
use super::skipped::Skipped;
use super::spool::Stretch;
use super::zipped::Zipped;
use crate::kind::Kind;

/// The files of a folder or an archive.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted by name.
    pub(crate) entries: Vec<Entry>,
    /// Entries that are not used.
    pub(crate) skipped: Skipped,
}

/// One file of a folder or an archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its path below the folder or in the archive, with `/` between the parts, printable.
    pub(crate) name: String,
    pub(crate) content: Content,
}

impl Entry {
    /// The last part of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The folders above the file, from the outermost.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        let folder = self.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.split('/').filter(|part| !part.is_empty())
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    File(PathBuf),
    Zipped(Zipped),
    Stretch(Stretch),
}

impl Content {
    /// All the bytes, at most 256 MiB of them.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(path) => {
                let file = File::open(path)?;
                // A file with a hole may have any length: refuse it before reading.
                refuse_larger(file.metadata()?.len(), MAX_FILE_BYTES)?;
                read_at_most(file, MAX_FILE_BYTES)
            }
            Self::Zipped(zipped) => zipped.read(),
            Self::Stretch(stretch) => read_at_most(stretch.open()?, MAX_FILE_BYTES),
        }
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Zipped(zipped) => Ok(zipped.len),
            Self::Stretch(stretch) => Ok(stretch.len),
        }
    }

    /// The kind of the content, from its first bytes.
    pub(crate) fn kind(&self) -> io::Result<Kind> {
        let start = match self {
            Self::File(path) => start_of(File::open(path)?)?,
            Self::Zipped(zipped) => start_of(zipped.open()?)?,
            Self::Stretch(stretch) => start_of(stretch.open()?)?,
        };
        Ok(Kind::of(&start))
    }
}

#[cfg(test)]
impl Content {
    /// The content of a file that holds these bytes.
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let mut spool = super::spool::Spool::new().unwrap();
        let stretch = spool.add(bytes).unwrap();
        spool.finish().unwrap();
        Self::Stretch(stretch)
    }
}
