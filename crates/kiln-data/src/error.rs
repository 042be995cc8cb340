//! What can go wrong with data, each in one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::dataset_kind::DatasetKind;
use crate::kind::Kind;
#[cfg(feature = "download")]
use crate::transfer::DownloadFailure;

/// Why a data set could not be opened or an image not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A value of the `[data]` table cannot be used.
    #[error("data.{key} = {value} is not usable: {expected}")]
    Config {
        /// The key.
        key: &'static str,
        /// The value it has.
        value: String,
        /// What would be valid.
        expected: String,
    },
    /// This data set cannot do without a path.
    #[error(
        "the data set `{0}` has to be on this machine: pass --data PATH or set data.path in the config"
    )]
    PathNeeded(DatasetKind),
    /// This data set is compiled in and takes no path.
    #[error(
        "the data set `{0}` is compiled in and takes no path: leave out --data and data.path, or set data.dataset = \"mnist\""
    )]
    PathRefused(DatasetKind),
    /// The images are to come from a program.
    #[error(
        "the data set `own` is handed over by the program that made it, so it cannot be opened: set data.dataset = \"folder\" and pass --data to use files"
    )]
    Own,
    /// There is nothing at the path.
    #[error("there is nothing at {}: pass --data with the path of an existing file or folder", .0.display())]
    Missing(PathBuf),
    /// A file or folder could not be read.
    #[error("could not read {}: {reason}; check its permissions and the disk", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The path holds something else.
    #[error("{} is not {expected}: pass --data with a path that is", path.display())]
    Unexpected {
        /// The path.
        path: PathBuf,
        /// What it should have been.
        expected: String,
    },
    /// The path holds something that is whole, but cannot be used.
    #[error("{} {problem}", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What is wrong with it and what to do, as it follows the path in a sentence.
        problem: String,
    },
    /// A file is cut short or corrupt.
    #[error("{} is damaged, {reason}: delete it and fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Fewer images than it takes to have one to train on and one for validation.
    #[error(
        "{} holds {} (PNG, JPEG, WebP, BMP, GIF, TIFF or PNM){skipped}, and training and validation need at least one each: pass --data with a path that holds more",
        path.display(),
        match count { 0 => "no usable image".to_owned(), 1 => "one usable image".to_owned(), count => format!("{count} usable images, all of them for training or all for validation") }
    )]
    TooFew {
        /// The path.
        path: PathBuf,
        /// How many were found.
        count: usize,
        /// What was skipped, in parentheses after a space, or nothing.
        skipped: String,
    },
    /// More files than allowed could not be decoded.
    #[error(
        "{failed} of {total} images could not be decoded, more than data.max_undecodable = {allowed} allows: repair or remove them, the first are {}",
        first.join(", ")
    )]
    Undecodable {
        /// How many could not be decoded.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The share that is allowed.
        allowed: f32,
        /// The first ten of them: the name, and what is wrong in parentheses.
        first: Vec<String>,
    },
    /// An image that could be read when the data set was opened cannot be read any more.
    #[error("could not read {name} any more ({reason}): leave the data in place while it is used")]
    Image {
        /// The image.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that should be an image is none.
    #[error("{} cannot be read as an image ({reason}): give a PNG, JPEG, WebP, BMP, GIF, TIFF or PNM file", path.display())]
    ImageFile {
        /// The file.
        path: PathBuf,
        /// What the system or the decoder says.
        reason: String,
    },
    /// There is no image of this number.
    #[error("there is no image {index} in a data set of {len}: ask for a smaller index")]
    Index {
        /// The number asked for.
        index: usize,
        /// How many images there are.
        len: usize,
    },
    /// The pixels or labels given do not fit the shape.
    #[error("{given} {what} do not make {expected}: pass as many as the shape asks for")]
    Count {
        /// What was given: `pixels` or `labels`.
        what: &'static str,
        /// How many of them.
        given: usize,
        /// What they should have made.
        expected: String,
    },
    /// A file could not be written.
    #[error("could not write {}: {reason}; free some space or check its permissions, then run this again", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// No mirror gave the file.
    #[cfg(feature = "download")]
    #[error(
        "could not download {file}: {}; try again later, or {instead}",
        failures.iter().map(|(mirror, failure)| format!("{mirror} {failure}")).collect::<Vec<_>>().join(", ")
    )]
    Download {
        /// The file.
        file: String,
        /// What happened at each mirror.
        failures: Vec<(String, DownloadFailure)>,
        /// How to do without the download.
        instead: &'static str,
    },
    /// The thread that prepares batches could not be started, or died.
    #[error(
        "the thread that prepares batches stopped ({0}): run this again, with fewer other programs running"
    )]
    PrefetchStopped(String),
}

impl DataError {
    /// The error of reading `path`, which may be that it is not there.
    pub(crate) fn reading(path: &Path, reason: io::Error) -> Self {
        if reason.kind() == io::ErrorKind::NotFound {
            Self::Missing(path.to_owned())
        } else {
            Self::Read {
                path: path.to_owned(),
                reason,
            }
        }
    }

    /// The error of finding something else than `expected` at `path`, which may have a sentence of its own.
    pub(crate) fn foreign(path: &Path, kind: Kind, expected: &str) -> Self {
        match kind.problem() {
            Some(problem) => Self::Unusable {
                path: path.to_owned(),
                problem,
            },
            None => Self::Unexpected {
                path: path.to_owned(),
                expected: expected.to_owned(),
            },
        }
    }

    /// Refuses what stands in place of a data file, so that it is not called damaged.
    pub(crate) fn refuse_foreign(path: &Path, content: &[u8]) -> Result<(), Self> {
        match Kind::of(content).problem() {
            Some(problem) => Err(Self::Unusable {
                path: path.to_owned(),
                problem,
            }),
            None => Ok(()),
        }
    }

    /// The error of writing `path`.
    pub(crate) fn writing(path: &Path, reason: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            reason,
        }
    }
}
