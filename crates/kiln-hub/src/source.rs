//! Where the files of a model come from.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

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

    /// A file's contents.
    pub(crate) fn bytes(&self, file: &str) -> Result<Cow<'static, [u8]>, HubError> {
        self.read(file, u64::MAX)
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
                let problem = |problem: io::Error| match problem.kind() {
                    io::ErrorKind::NotFound => HubError::MissingFile(self.name(file)),
                    _ => HubError::Read {
                        file: self.name(file),
                        problem,
                    },
                };
                let mut opened = File::open(folder.join(file)).map_err(problem)?;
                let bytes = opened.metadata().map_err(problem)?.len();
                if bytes > largest {
                    return Err(HubError::TooLarge {
                        file: self.name(file),
                        bytes,
                    });
                }
                let mut contents = Vec::new();
                opened.read_to_end(&mut contents).map_err(problem)?;
                Ok(Cow::Owned(contents))
            }
        }
    }
}
