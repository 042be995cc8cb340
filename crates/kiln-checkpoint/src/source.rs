//! The source of a model's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kiln_data::open_regular;

use crate::CheckpointError;
use crate::foreign::{START, is_safetensors, refuse_foreign};
use crate::not_a_number::not_a_number;

/// Largest config that is read, in bytes. Real ones have about a thousand.
const MAX_CONFIG: u64 = 1 << 20;
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The source of a model's files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ModelSource {
    /// A folder on disk.
    Folder(PathBuf),
    /// Files in memory, compiled into the program or fetched by a page in a browser.
    Memory {
        /// The model's name in messages.
        name: String,
        /// The contents by name. The names are as in a folder (`unet/config.json`).
        files: BTreeMap<String, Bytes>,
    },
}

/// A file on disk or in memory.
pub(crate) trait Readable: Read + Seek + Send + 'static {}

impl<R: Read + Seek + Send + 'static> Readable for R {}

impl ModelSource {
    /// A description of the place.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Memory { name, .. } => name.clone(),
        }
    }

    /// A description of a file, with its full name.
    pub fn name(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            Self::Memory { name, .. } => format!("{file} of {name}"),
        }
    }

    /// Refuses a folder that does not exist.
    ///
    /// # Errors
    /// [`CheckpointError::NoFolder`].
    pub fn require_folder(&self) -> Result<(), CheckpointError> {
        match self {
            Self::Folder(folder) if !folder.is_dir() => {
                Err(CheckpointError::NoFolder(folder.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a file exists.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            // An entry of any kind, so that a message says what is wrong with it instead of calling it missing.
            Self::Folder(folder) => fs::symlink_metadata(folder.join(file)).is_ok(),
            Self::Memory { files, .. } => files.contains_key(file),
        }
    }

    /// A file's contents, of at most `largest` bytes.
    pub(crate) fn bytes(&self, file: &str, largest: u64) -> Result<Bytes, CheckpointError> {
        match self {
            Self::Memory { .. } => self.in_memory(file, largest),
            Self::Folder(folder) => {
                let opened = self.open(folder, file, largest)?;
                let mut contents = Vec::new();
                // It may grow in the meantime.
                let read = opened.take(largest).read_to_end(&mut contents);
                read.map_err(|problem| self.read_error(file, problem))?;
                Ok(contents.into())
            }
        }
    }

    /// Opens a file of at most `largest` bytes.
    pub(crate) fn opened(
        &self,
        file: &str,
        largest: u64,
    ) -> Result<Box<dyn Readable>, CheckpointError> {
        Ok(match self {
            Self::Memory { .. } => Box::new(Cursor::new(self.in_memory(file, largest)?)),
            Self::Folder(folder) => Box::new(self.open(folder, file, largest)?),
        })
    }

    /// Whether a file of weights is in safetensors; otherwise it is a pickle.
    pub(crate) fn is_safetensors(&self, file: &str, largest: u64) -> Result<bool, CheckpointError> {
        let mut opened = self.opened(file, largest)?;
        let start = start(&mut opened).map_err(|problem| self.read_error(file, problem))?;
        Ok(is_safetensors(&start, file))
    }

    /// The contents of a config file, as text.
    ///
    /// # Errors
    /// If it is missing, cannot be read, is not text, has Python's words for infinity or "not a number", or is far larger
    /// than a config.
    pub fn text(&self, file: &str) -> Result<String, CheckpointError> {
        let bytes = self.bytes(file, MAX_CONFIG)?;
        let text = String::from_utf8(bytes.into());
        let text = text.map_err(|problem| CheckpointError::Damaged {
            file: self.name(file),
            problem: problem.to_string(),
        })?;
        match not_a_number(&text) {
            Some((key, word)) => Err(CheckpointError::NotANumber {
                file: self.name(file),
                key,
                word,
            }),
            // Editors of Windows begin their files with it.
            None => Ok(text.trim_start_matches(BYTE_ORDER_MARK).to_owned()),
        }
    }

    /// A file in memory that has a model's kind of content.
    fn in_memory(&self, file: &str, largest: u64) -> Result<Bytes, CheckpointError> {
        let files = match self {
            Self::Memory { files, .. } => Some(files),
            Self::Folder(_) => None,
        };
        let name = self.name(file);
        let Some(contents) = files.and_then(|files| files.get(file)) else {
            return Err(CheckpointError::MissingFile(name));
        };
        let bytes = contents.len() as u64;
        if bytes > largest {
            return Err(CheckpointError::TooLarge { file: name, bytes });
        }
        refuse_foreign(contents.get(..START).unwrap_or(contents), &name)?;
        Ok(contents.clone())
    }

    /// Opens a file of `folder` that has at most `largest` bytes and a model's kind of content.
    fn open(&self, folder: &Path, file: &str, largest: u64) -> Result<File, CheckpointError> {
        let path = folder.join(file);
        open_file(&path, largest).map_err(|problem| match problem {
            CheckpointError::Read { problem, .. } => {
                let is_missing = problem.kind() == io::ErrorKind::NotFound;
                let leads_nowhere = is_missing && fs::symlink_metadata(&path).is_ok();
                let nowhere = || io::Error::other("it is a link to a file that is not there");
                self.read_error(file, if leads_nowhere { nowhere() } else { problem })
            }
            problem => problem,
        })
    }

    fn read_error(&self, file: &str, problem: io::Error) -> CheckpointError {
        match problem.kind() {
            io::ErrorKind::NotFound => CheckpointError::MissingFile(self.name(file)),
            _ => CheckpointError::Read {
                file: self.name(file),
                problem,
            },
        }
    }
}

/// Opens a file of at most `largest` bytes, at its beginning. Refuses devices and pipes, which have no end, and files
/// whose beginning is not a model's.
pub(crate) fn open_file(path: &Path, largest: u64) -> Result<File, CheckpointError> {
    let name = || path.display().to_string();
    let problem = |problem| CheckpointError::Read {
        file: name(),
        problem,
    };
    let mut opened = open_regular(path).map_err(problem)?;
    let bytes = opened.metadata().map_err(problem)?.len();
    if bytes > largest {
        return Err(CheckpointError::TooLarge {
            file: name(),
            bytes,
        });
    }
    refuse_foreign(&start(&mut opened).map_err(problem)?, &name())?;
    Ok(opened)
}

/// The first bytes of a file, which is then rewound.
pub(crate) fn start(file: &mut impl Readable) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.by_ref().take(START as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}
