//! Files from public places into the cache, resumable and verified: MNIST, and the weights of pytorch-fid.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::contents::read_at_most;
use crate::error::DataError;
use crate::progress::Progress;
use crate::transfer::{Transfer, transfer_agent};

/// Where MNIST can be had, in the order in which they are asked.
const MIRRORS: [&str; 2] = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
];

/// A file, with the SHA-256 of its content.
#[derive(Clone, Debug)]
struct RemoteFile {
    name: &'static str,
    content_sha256: &'static str,
    form: Form,
}

/// What a digest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What is inside a gzip file: a mirror may have compressed it anew.
    Gzip,
    /// The file as it is.
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

/// Google's InceptionV3 of December 2015, ported to PyTorch: what FID is published with.
const PYTORCH_FID: RemoteFile = RemoteFile {
    name: "pt_inception-2015-12-05-6726825d.pth",
    content_sha256: PYTORCH_FID_SHA256,
    form: Form::Plain,
};
/// The SHA-256 of [`pytorch_fid_weights`].
pub const PYTORCH_FID_SHA256: &str =
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
const PYTORCH_FID_RELEASE: &str =
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/";

/// The weights of pytorch-fid have 96 MB, MNIST's largest file 10 MB and 47 MB decompressed; what exceeds these is another
/// file.
const MAX_BYTES: u64 = 128 << 20;
const MAX_CONTENT_BYTES: u64 = 128 << 20;
/// What every gzip file begins with.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// How long a mirror may say nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder in the user's cache that kiln keeps its files in; none if the system names no cache.
pub fn cache_folder() -> Option<PathBuf> {
    Some(dirs::cache_dir()?.join("kiln"))
}

/// The weights of the network that pytorch-fid computes FID with, in the user's cache after the first time (96 MB).
///
/// # Errors
/// [`DataError::Download`] when it cannot be downloaded whole, [`DataError::NoCacheFolder`] when there is no place to keep it.
pub fn pytorch_fid_weights(progress: &dyn Progress) -> Result<PathBuf, DataError> {
    let folder = cache_folder()
        .ok_or(DataError::NoCacheFolder)?
        .join("pytorch-fid");
    fetch_missing(&folder, &[PYTORCH_FID], &[PYTORCH_FID_RELEASE], progress)?;
    Ok(folder.join(PYTORCH_FID.name))
}

/// The folder in the user's cache that holds MNIST, after downloading what is missing in it.
pub(crate) fn mnist(progress: &dyn Progress) -> Result<PathBuf, DataError> {
    let folder = cache_folder()
        .ok_or(DataError::NoCacheFolder)?
        .join("mnist");
    fetch_missing(&folder, &MNIST, &MIRRORS, progress)?;
    Ok(folder)
}

fn fetch_missing(
    folder: &Path,
    files: &[RemoteFile],
    mirrors: &[&str],
    progress: &dyn Progress,
) -> Result<(), DataError> {
    let is_missing = |file: &&RemoteFile| !folder.join(file.name).exists();
    if !files.iter().any(|file| is_missing(&file)) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| DataError::writing(folder, error))?;
    // Two programs that start at once take turns. Where the file system has no locks, the digest still protects.
    let lock_path = folder.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&lock_path);
    let lock = lock.map_err(|error| DataError::writing(&lock_path, error))?;
    let _ = lock.lock();
    files
        .iter()
        .filter(is_missing)
        .try_for_each(|file| fetch(folder, file, mirrors, progress))
}

/// Downloads one file, from the first mirror that has it.
fn fetch(
    folder: &Path,
    file: &RemoteFile,
    mirrors: &[&str],
    progress: &dyn Progress,
) -> Result<(), DataError> {
    let agent = transfer_agent(PATIENCE);
    let partial = folder.join(format!("{}.part", file.name));
    let mut failures = Vec::new();
    for mirror in mirrors {
        let transfer = Transfer {
            agent: &agent,
            url: &format!("{mirror}{}", file.name),
            authorization: None,
            partial: &partial,
            size: None,
            largest: MAX_BYTES,
            // Rather than to wait for a busy mirror, ask the next one.
            pauses: &[],
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
    })
}

impl RemoteFile {
    /// Whether the file at `path` has the digest of the real one.
    fn is_right(&self, path: &Path) -> bool {
        let digest = || -> io::Result<String> {
            let file = File::open(path)?;
            let hash = Sha256::digest(match self.form {
                Form::Gzip => read_at_most(MultiGzDecoder::new(file), MAX_CONTENT_BYTES)?,
                Form::Plain => read_at_most(file, MAX_BYTES)?,
            });
            Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        digest().is_ok_and(|digest| digest == self.content_sha256)
    }
}

#[cfg(test)]
mod tests;
