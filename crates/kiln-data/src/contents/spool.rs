//! Files from a stream that can only be read in order, stored one after the other in a temporary
//! file.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::{NamedTempFile, TempPath};

/// A file that contains others.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file of the user.
    Kept(PathBuf),
    /// A temporary file of ours: it is removed with the last stretch of it.
    Temporary(TempPath),
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(path) => path,
        }
    }
}

/// A stretch of another file.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(super) file: Arc<Place>,
    pub(super) start: u64,
    pub(crate) len: u64,
}

impl Stretch {
    pub(super) fn open(&self) -> io::Result<impl Read> {
        let mut file = File::open(&*self.file)?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(file.take(self.len))
    }
}

/// A temporary file that grows.
pub(crate) struct Spool {
    file: BufWriter<File>,
    place: Arc<Place>,
    len: u64,
}

impl Spool {
    pub(crate) fn new() -> io::Result<Self> {
        let (file, path) = NamedTempFile::new()?.into_parts();
        Ok(Self {
            file: BufWriter::new(file),
            place: Arc::new(Place::Temporary(path)),
            len: 0,
        })
    }

    /// The bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Adds bytes; they can be read after [`Self::finish`].
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<Stretch> {
        let start = self.len;
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(Stretch {
            file: self.place.clone(),
            start,
            len: bytes.len() as u64,
        })
    }

    /// Adds everything from `reader`, a piece at a time. The inner error is the reader's.
    pub(crate) fn take(&mut self, mut reader: impl Read) -> io::Result<io::Result<Stretch>> {
        let mut all = self.add(&[])?;
        let mut piece = [0; 16 << 10];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(Ok(all)),
                Ok(count) => all.len += self.add(&piece[..count])?.len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Writes the rest.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}
