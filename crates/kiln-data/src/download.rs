//! Downloads public files into the cache, resumable and verified: MNIST, and the weights of networks that judge images.

mod torchvision;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::contents::{Gzip, read_at_most};
use crate::digest::{sha256, sha256_of_file};
use crate::error::DataError;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::transfer::{Transfer, transfer_agent};

pub use torchvision::TorchvisionWeights;

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// From now on this process downloads no public files: what is not in the cache is an error. The Hub has its own
/// setting.
pub fn forbid_downloads() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

/// The mirrors of MNIST, in the order in which they are tried.
const MIRRORS: [&str; 2] = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
];

/// A file, with the SHA-256 of its content.
#[derive(Clone, Debug)]
struct RemoteFile {
    name: &'static str,
    /// All digits, or the first ones where no more are published.
    content_sha256: &'static str,
    form: Form,
}

/// The data that a digest covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The content of a gzip file: a mirror may have compressed it again.
    Gzip,
    /// The file itself.
    Plain,
}

const MNIST: [RemoteFile; 4] = [
    RemoteFile {
        name: "train-images-idx3-ubyte.gz",
        content_sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        form: Form::Gzip,
    },
    RemoteFile {
        name: "train-labels-idx1-ubyte.gz",
        content_sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        form: Form::Gzip,
    },
    RemoteFile {
        name: "t10k-images-idx3-ubyte.gz",
        content_sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        form: Form::Gzip,
    },
    RemoteFile {
        name: "t10k-labels-idx1-ubyte.gz",
        content_sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        form: Form::Gzip,
    },
];

/// Google's InceptionV3 of December 2015, ported to PyTorch: the network of published FIDs.
const PYTORCH_FID: RemoteFile = RemoteFile {
    name: PYTORCH_FID_FILE,
    content_sha256: PYTORCH_FID_SHA256,
    form: Form::Plain,
};
/// The file that [`pytorch_fid_weights`] gives.
pub const PYTORCH_FID_FILE: &str = "pt_inception-2015-12-05-6726825d.pth";
/// The SHA-256 of [`pytorch_fid_weights`].
pub const PYTORCH_FID_SHA256: &str =
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
const PYTORCH_FID_RELEASE: &str =
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/";

/// The weights of VGG16 have 553 MB, MNIST's largest file 10 MB and 47 MB decompressed; a larger file is a different one.
const MAX_BYTES: u64 = 640 << 20;
const MAX_CONTENT_BYTES: u64 = 128 << 20;
/// The first bytes of every gzip file.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// How long a mirror may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// kiln's folder in the user's cache; `None` if the system names no cache.
pub fn cache_folder() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("kiln"))
}

/// Files that are downloaded together.
#[derive(Clone, Copy, Debug)]
struct Collection<'a> {
    /// Their folder in the cache.
    folder: &'static str,
    files: &'a [RemoteFile],
    /// The mirrors, in the order in which they are tried.
    mirrors: &'a [&'a str],
    /// What to do if they cannot be downloaded.
    instead: &'static str,
}

/// A folder of downloaded files: in the user's cache or, if the cache is not writable, a temporary one that is removed
/// with this value.
#[derive(Debug)]
pub struct Downloaded {
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl Downloaded {
    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The weights behind published FIDs.
const PYTORCH_FID_WEIGHTS: Collection<'static> = Collection {
    folder: "pytorch-fid",
    files: &[PYTORCH_FID],
    mirrors: &[PYTORCH_FID_RELEASE],
    instead: "name a file that holds InceptionV3's weights by `--feature-weights FILE` of kiln evaluate, or by `feature_weights` in [stage_2.evaluation] of a config",
};

/// Handwritten digits.
const MNIST_FILES: Collection<'static> = Collection {
    folder: "mnist",
    files: &MNIST,
    mirrors: &MIRRORS,
    instead: "pass --data with a folder that holds MNIST's four files",
};

/// A folder with [`PYTORCH_FID_FILE`], the network weights of pytorch-fid (96 MB); in the user's cache after the first
/// time.
///
/// # Errors
/// [`DataError::Download`] if it cannot be downloaded completely.
pub fn pytorch_fid_weights(progress: &dyn Progress) -> Result<Downloaded, DataError> {
    download(cache_folder(), &PYTORCH_FID_WEIGHTS, progress)
}

/// The folder that holds MNIST, in the user's cache after the first time.
pub(crate) fn mnist(progress: &dyn Progress) -> Result<Downloaded, DataError> {
    download(cache_folder(), &MNIST_FILES, progress)
}

/// The files of a collection, from `cache` if they are there and complete.
fn download(
    cache: Option<PathBuf>,
    collection: &Collection<'_>,
    progress: &dyn Progress,
) -> Result<Downloaded, DataError> {
    let why_not_kept = match cache {
        Some(cache) => {
            let folder = cache.join(collection.folder);
            match fetch_missing(&folder, collection, progress) {
                Ok(()) => {
                    return Ok(Downloaded {
                        folder,
                        _temporary: None,
                    });
                }
                Err(DataError::Write { path, reason }) => {
                    format!("{} cannot be written ({reason})", path.display())
                }
                Err(error) => return Err(error),
            }
        }
        None => "the system names no folder for caches".to_owned(),
    };
    tracing::warn!(
        "{why_not_kept}, so downloads are not kept: set XDG_CACHE_HOME to a folder that can be written to"
    );
    let place = std::env::temp_dir();
    let temporary =
        tempfile::tempdir_in(&place).map_err(|error| DataError::writing(&place, error))?;
    fetch_missing(temporary.path(), collection, progress)?;
    Ok(Downloaded {
        folder: temporary.path().to_owned(),
        _temporary: Some(temporary),
    })
}

/// Downloads the missing and the wrong files into `folder`.
fn fetch_missing(
    folder: &Path,
    collection: &Collection<'_>,
    progress: &dyn Progress,
) -> Result<(), DataError> {
    let is_missing = |file: &&RemoteFile| !file.is_right(&folder.join(file.name));
    let mut missing = collection.files.iter().filter(is_missing).peekable();
    let Some(file) = missing.peek() else {
        return Ok(());
    };
    if FORBIDDEN.load(Ordering::Relaxed) {
        return Err(DataError::Offline {
            file: file.name.to_owned(),
            instead: collection.instead,
        });
    }
    fs::create_dir_all(folder).map_err(|error| DataError::writing(folder, error))?;
    // Two programs that start at once take turns. If the file system has no locks, the digest still protects the files.
    let lock_path = folder.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&lock_path);
    let lock = lock.map_err(|error| DataError::writing(&lock_path, error))?;
    let _ = lock.lock();
    // Another program may have fetched them in the meantime.
    for file in missing.filter(is_missing) {
        let path = folder.join(file.name);
        if path.exists() {
            tracing::warn!(
                "{} has a wrong checksum, so kiln downloads it again",
                path.display()
            );
        }
        fetch(folder, file, collection, progress)?;
    }
    Ok(())
}

/// Downloads one file, from the first mirror that has it.
fn fetch(
    folder: &Path,
    file: &RemoteFile,
    collection: &Collection<'_>,
    progress: &dyn Progress,
) -> Result<(), DataError> {
    let agent = transfer_agent(PATIENCE);
    let partial = folder.join(format!("{}.part", file.name));
    let mut failures = Vec::new();
    for mirror in collection.mirrors {
        let transfer = Transfer {
            agent: &agent,
            url: &format!("{mirror}{}", file.name),
            authorization: None,
            partial: &partial,
            size: None,
            largest: MAX_BYTES,
            // Instead of waiting for a busy mirror, try the next one.
            pauses: &[],
            pace: Pace::MODEM,
            begins_right: &|bytes| file.form != Form::Gzip || bytes.starts_with(GZIP),
            is_right: &|path| file.is_right(path),
            task: &format!("downloading {}", file.name),
            progress,
        };
        let outcome = transfer
            .run()
            .map_err(|error| DataError::writing(&partial, error))?;
        match outcome {
            Ok(()) => {
                let target = folder.join(file.name);
                return fs::rename(&partial, &target)
                    .map_err(|error| DataError::writing(&target, error));
            }
            Err(failure) => failures.push((mirror.to_string(), failure)),
        }
    }
    Err(DataError::Download {
        file: file.name.to_owned(),
        failures,
        instead: collection.instead,
    })
}

impl RemoteFile {
    /// Whether the file at `path` has the right digest.
    fn is_right(&self, path: &Path) -> bool {
        let digest = || -> io::Result<String> {
            match self.form {
                Form::Gzip => {
                    let content = read_at_most(Gzip::new(File::open(path)?), MAX_CONTENT_BYTES)?;
                    Ok(sha256(&content))
                }
                Form::Plain => sha256_of_file(path),
            }
        };
        digest().is_ok_and(|digest| self.has_digest(&digest))
    }

    fn has_digest(&self, sha256: &str) -> bool {
        sha256.starts_with(self.content_sha256)
    }
}

#[cfg(test)]
mod tests;
