//! Where the files of a model come from.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::HubError;

/// Largest config that is read, in bytes. Real ones have about a thousand.
const MAX_CONFIG: u64 = 1 << 20;

/// Where a model's files are read from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A folder on disk.
    Folder(PathBuf),
    /// Files compiled into the program: names as in a folder (`unet/config.json`), and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl ModelSource {
    /// The place, in words.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Embedded(_) => "the built-in model".to_owned(),
        }
    }

    /// A file's full name, in words.
    pub(crate) fn name(&self, file: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(file).display().to_string(),
            Self::Embedded(_) => format!("{file} of the built-in model"),
        }
    }

    /// Refuses a folder that is not there.
    pub(crate) fn require_folder(&self) -> Result<(), HubError> {
        match self {
            Self::Folder(folder) if !folder.is_dir() => Err(HubError::NoFolder(folder.clone())),
            _ => Ok(()),
        }
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(file).is_file(),
            Self::Embedded(files) => files.iter().any(|(name, _)| *name == file),
        }
    }

    /// Where a file lies on disk, once it is known to have no more than `largest` bytes.
    pub(crate) fn path(&self, file: &str, largest: u64) -> Result<PathBuf, HubError> {
        match self {
            Self::Folder(folder) => {
                self.open(folder, file, largest)?;
                Ok(folder.join(file))
            }
            Self::Embedded(_) => Err(HubError::MissingFile(self.name(file))),
        }
    }

    /// A file's contents, which must have no more than `largest` bytes.
    pub(crate) fn bytes(&self, file: &str, largest: u64) -> Result<Cow<'static, [u8]>, HubError> {
        self.read(file, largest)
    }

    /// The contents of a config file, as text.
    pub(crate) fn text(&self, file: &str) -> Result<String, HubError> {
        let bytes = self.read(file, MAX_CONFIG)?;
        String::from_utf8(bytes.into_owned()).map_err(|problem| HubError::Damaged {
            file: self.name(file),
            problem: problem.to_string(),
        })
    }

    fn read(&self, file: &str, largest: u64) -> Result<Cow<'static, [u8]>, HubError> {
        match self {
            Self::Embedded(files) => files
                .iter()
                .find(|(name, _)| *name == file)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| HubError::MissingFile(self.name(file))),
            Self::Folder(folder) => {
                let mut opened = self.open(folder, file, largest)?;
                let mut contents = Vec::new();
                let read = opened.read_to_end(&mut contents);
                read.map_err(|problem| self.read_error(file, problem))?;
                Ok(Cow::Owned(contents))
            }
        }
    }

    /// Opens a file of `folder` that has no more than `largest` bytes.
    fn open(&self, folder: &Path, file: &str, largest: u64) -> Result<File, HubError> {
        let problem = |problem| self.read_error(file, problem);
        let opened = File::open(folder.join(file)).map_err(problem)?;
        let bytes = opened.metadata().map_err(problem)?.len();
        if bytes > largest {
            return Err(HubError::TooLarge {
                file: self.name(file),
                bytes,
            });
        }
        Ok(opened)
    }

    fn read_error(&self, file: &str, problem: io::Error) -> HubError {
        match problem.kind() {
            io::ErrorKind::NotFound => HubError::MissingFile(self.name(file)),
            _ => HubError::Read {
                file: self.name(file),
                problem,
            },
        }
    }
}
