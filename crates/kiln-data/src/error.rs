//! Errors about data. Each message is one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::dataset_kind::DatasetKind;
use crate::elsewhere::SourceError;
use crate::kind::Kind;
#[cfg(feature = "download")]
use crate::transfer::DownloadFailure;

/// Why a data set could not be opened or an image could not be read.
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
    /// This data set needs a path.
    #[error(
        "the data set `{0}` has to be on this machine: pass --data PATH or set data.path in the config"
    )]
    PathNeeded(DatasetKind),
    /// This data set is compiled in and takes no path.
    #[error(
        "the data set `{0}` is compiled in and takes no path: leave out --data and data.path, or set data.dataset = \"mnist\""
    )]
    PathRefused(DatasetKind),
    /// The images should come from a program.
    #[error(
        "a program passes the data set `own` to kiln, so kiln cannot open it: set data.dataset = \"folder\" and pass --data to use files"
    )]
    Own,
    /// There is nothing at the path.
    #[error("there is nothing at {}: pass --data with the path of an existing file or folder", .0.display())]
    Missing(PathBuf),
    /// There is no file of this name.
    #[error("there is no file {}: give the path of an image that exists", .0.display())]
    NoFile(PathBuf),
    /// A file or folder could not be read.
    #[error("could not read {}: {reason}; check its permissions and the disk", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// There is something else at the path.
    #[error("{} is not {expected}: pass --data with a path that is", path.display())]
    Unexpected {
        /// The path.
        path: PathBuf,
        /// The expected kind.
        expected: String,
    },
    /// The content of the path is complete, but cannot be used.
    #[error("{} {problem}", path.display())]
    Unusable {
        /// The path.
        path: PathBuf,
        /// The problem and what to do: the part of the sentence after the path.
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
    /// Too few images for one to train on and one for validation.
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
        /// The skipped entries, in parentheses after a space, or nothing.
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
        /// The first ten of them: the name, and the reason in parentheses.
        first: Vec<String>,
    },
    /// More shards than allowed are damaged.
    #[error(
        "{failed} of {total} shards cannot be used, more than data.max_undecodable = {allowed} allows: fetch them again or remove them; {}",
        first.join("; ")
    )]
    Shards {
        /// How many cannot be used.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The share that is allowed.
        allowed: f32,
        /// What is wrong with the first ten of them, a sentence each.
        first: Vec<String>,
    },
    /// An image that could be read when the data set was opened cannot be read any more.
    #[error("can no longer read {name} ({reason}): do not move the data while kiln uses it")]
    Image {
        /// The image.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that should be an image is not one.
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
    #[error("{given} {what} do not fit {expected}: pass the number that the shape needs")]
    Count {
        /// The kind of values: `pixels` or `labels`.
        what: &'static str,
        /// How many of them.
        given: usize,
        /// What they should make.
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
    /// No mirror delivered the file.
    #[cfg(feature = "download")]
    #[error(
        "could not download {file}: {}; try again later, or {instead}",
        failures.iter().map(|(mirror, failure)| format!("{mirror} {failure}")).collect::<Vec<_>>().join(", ")
    )]
    Download {
        /// The file.
        file: String,
        /// The failure of each mirror.
        failures: Vec<(String, DownloadFailure)>,
        /// How to do without the download.
        instead: &'static str,
    },
    /// A file would have to be downloaded, after [`forbid_downloads`](crate::forbid_downloads).
    #[error(
        "{file} is not in the cache, and nothing may be downloaded offline: run this once while online, without --offline and HF_HUB_OFFLINE, or {instead}"
    )]
    Offline {
        /// The file.
        file: String,
        /// How to do without the download.
        instead: &'static str,
    },
    /// A file that is somewhere else cannot be had. No other takes its place: what is learnt must not depend on a network.
    #[error(transparent)]
    Source(SourceError),
    /// The thread that prepares batches could not be started, or died.
    #[error("the thread that prepares batches stopped: {0}")]
    PrefetchStopped(String),
}

impl DataError {
    /// The error of reading `path`, which may be missing.
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

    /// The error for another kind than `expected` at `path`; some kinds have their own sentence.
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

    /// Refuses other kinds of content in a data file, which would otherwise be reported as damaged.
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
