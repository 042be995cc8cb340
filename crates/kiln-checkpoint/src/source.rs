//! The source of a model's files.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use kiln_data::open_regular;

use crate::CheckpointError;
use crate::foreign::{START, is_safetensors, refuse_foreign};

/// Largest config that is read, in bytes. Real ones have about a thousand.
const MAX_CONFIG: u64 = 1 << 20;

/// The source of a model's files.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A folder on disk.
    Folder(PathBuf),
    /// Files compiled into the program: names as in a folder (`unet/config.json`), and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelSource {
    /// A description of the place.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Embedded(_) => "the built-in model".to_owned(),
        }
    }

    /// A description of a file, with its full name.
    pub fn name(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            Self::Embedded(_) => format!("{file} of the built-in model"),
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
            Self::Folder(folder) => folder.join(file).is_file(),
            Self::Embedded(files) => files.iter().any(|(name, _)| *name == file),
        }
    }

    /// The path of a file on disk, after a check that it has at most `largest` bytes.
    pub(crate) fn path(&self, file: &str, largest: u64) -> Result<PathBuf, CheckpointError> {
        match self {
            Self::Folder(folder) => {
                self.open(folder, file, largest)?;
                Ok(folder.join(file))
            }
            Self::Embedded(_) => Err(CheckpointError::MissingFile(self.name(file))),
        }
    }

    /// A file's contents, of at most `largest` bytes.
    pub(crate) fn bytes(
        &self,
        file: &str,
        largest: u64,
    ) -> Result<Cow<'static, [u8]>, CheckpointError> {
        self.read(file, largest)
    }

    /// Whether a file of weights is in safetensors; otherwise it is a pickle.
    pub(crate) fn is_safetensors(&self, file: &str, largest: u64) -> Result<bool, CheckpointError> {
        match self {
            Self::Folder(folder) => {
                let mut opened = self.open(folder, file, largest)?;
                let start = start(&mut opened).map_err(|problem| self.read_error(file, problem))?;
                Ok(is_safetensors(&start, file))
            }
            Self::Embedded(_) => Ok(true),
        }
    }

    /// The contents of a config file, as text.
    ///
    /// # Errors
    /// If it is missing, cannot be read, is not text, or is far larger than a config.
    pub fn text(&self, file: &str) -> Result<String, CheckpointError> {
        let bytes = self.read(file, MAX_CONFIG)?;
        String::from_utf8(bytes.into_owned()).map_err(|problem| CheckpointError::Damaged {
            file: self.name(file),
            problem: problem.to_string(),
        })
    }

    fn read(&self, file: &str, largest: u64) -> Result<Cow<'static, [u8]>, CheckpointError> {
        match self {
            Self::Embedded(files) => files
                .iter()
                .find(|(name, _)| *name == file)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| CheckpointError::MissingFile(self.name(file))),
            Self::Folder(folder) => {
                let opened = self.open(folder, file, largest)?;
                let mut contents = Vec::new();
                // It may grow in the meantime.
                let read = opened.take(largest).read_to_end(&mut contents);
                read.map_err(|problem| self.read_error(file, problem))?;
                Ok(Cow::Owned(contents))
            }
        }
    }

    /// Opens a file of `folder` that has at most `largest` bytes and a model's kind of content.
    fn open(&self, folder: &Path, file: &str, largest: u64) -> Result<File, CheckpointError> {
        open_file(&folder.join(file), largest).map_err(|problem| match problem {
            CheckpointError::Read { problem, .. } => self.read_error(file, problem),
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

/// The first bytes of a file, which stay unread.
pub(crate) fn start(file: &mut File) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.by_ref().take(START as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start)
}
