//! Files from public places into the cache, resumable and verified: MNIST, and the weights of pytorch-fid.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use ureq::http::{StatusCode, header};

use crate::contents::read_at_most;
use crate::error::DataError;
use crate::progress::{Progress, ProgressUnit, Task};

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
/// How often a mirror that stops midway is asked for the rest, as long as each time brings something new.
const MAX_ATTEMPTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// What was wrong at one mirror.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadFailure {
    /// No connection, or no answer in time.
    #[error("could not be reached ({0})")]
    Unreachable(String),
    /// An HTTP status that is not a success.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// The transfer stopped midway. What came is kept, and the next run asks for the rest.
    #[error("stopped sending after {received} bytes")]
    CutShort {
        /// How many bytes there are now.
        received: u64,
    },
    /// Something else came, as the login page of a wireless network.
    #[error("sent something else than a gzip file")]
    NotTheFile,
    /// The file is complete but not the right one.
    #[error("sent a file with the wrong SHA-256")]
    WrongDigest,
}

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
    let lock = File::create(&lock_path).map_err(|error| DataError::writing(&lock_path, error))?;
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
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .http_status_as_error(false)
        .build()
        .into();
    let partial = folder.join(format!("{}.part", file.name));
    let mut failures = Vec::new();
    for mirror in mirrors {
        let download = Download {
            agent: &agent,
            url: format!("{mirror}{}", file.name),
            partial: &partial,
            file,
            progress,
        };
        match download.run()? {
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

/// One file from one mirror into `partial`. The outer error of its functions is this machine's, and final; the inner
/// one is the mirror's, and another may do better.
struct Download<'a> {
    agent: &'a ureq::Agent,
    url: String,
    partial: &'a Path,
    file: &'a RemoteFile,
    progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Transfers until the file is complete and right, asking again where that can help.
    fn run(&self) -> Result<Result<(), DownloadFailure>, DataError> {
        let mut failure = DownloadFailure::CutShort { received: 0 };
        for _ in 0..MAX_ATTEMPTS {
            let before = self.received();
            match self.transfer(before)? {
                Ok(()) if self.is_right() => return Ok(Ok(())),
                Ok(()) => {
                    fs::remove_file(self.partial)
                        .map_err(|error| DataError::writing(self.partial, error))?;
                    failure = DownloadFailure::WrongDigest;
                    // The part that was there already may be what is wrong: once more from the start.
                    if before == 0 {
                        break;
                    }
                }
                Err(DownloadFailure::CutShort { received }) if received > before => {
                    failure = DownloadFailure::CutShort { received };
                }
                Err(other) => return Ok(Err(other)),
            }
        }
        Ok(Err(failure))
    }

    fn received(&self) -> u64 {
        fs::metadata(self.partial).map_or(0, |metadata| metadata.len())
    }

    /// Appends what follows the first `before` bytes, or writes everything where the server does not know ranges.
    fn transfer(&self, before: u64) -> Result<Result<(), DownloadFailure>, DataError> {
        let mut request = self.agent.get(&self.url);
        if before > 0 {
            request = request.header(header::RANGE, format!("bytes={before}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Err(DownloadFailure::Unreachable(error.to_string()))),
        };
        let resumes = match response.status() {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT if before > 0 => true,
            // There is nothing after what we have: it is complete, or wrong, as the digest will tell.
            StatusCode::RANGE_NOT_SATISFIABLE if before > 0 => return Ok(Ok(())),
            status => return Ok(Err(DownloadFailure::Status(status.as_u16()))),
        };
        let length = response.body().content_length();
        let mut body = response.into_body().into_reader();
        let mut received = if resumes { before } else { 0 };
        let end = length.map(|length| received.saturating_add(length));
        let task = format!("downloading {}", self.file.name);
        let task = Task::begin(self.progress, &task, ProgressUnit::Bytes, end);
        task.advance(received);

        let mut chunk = vec![0; 64 << 10];
        let mut count = body.read(&mut chunk).unwrap_or(0);
        let is_gzip = chunk[..count].starts_with(&[0x1f, 0x8b]);
        if !resumes && self.file.form == Form::Gzip && !is_gzip {
            return Ok(Err(DownloadFailure::NotTheFile));
        }
        let write_error = |error| DataError::writing(self.partial, error);
        let mut output = OpenOptions::new();
        output
            .create(true)
            .write(true)
            .append(resumes)
            .truncate(!resumes);
        let mut output = output.open(self.partial).map_err(write_error)?;
        // A failing read counts as the end: what is missing then is asked for again.
        while count > 0 {
            output.write_all(&chunk[..count]).map_err(write_error)?;
            task.advance(count as u64);
            received += count as u64;
            if received > MAX_BYTES {
                return Ok(Ok(()));
            }
            count = body.read(&mut chunk).unwrap_or(0);
        }
        output.sync_all().map_err(write_error)?;
        if end.is_some_and(|end| received < end) {
            return Ok(Err(DownloadFailure::CutShort { received }));
        }
        Ok(Ok(()))
    }

    /// Whether the content of the partial file has the digest of the real one.
    fn is_right(&self) -> bool {
        let digest = || -> io::Result<String> {
            let file = File::open(self.partial)?;
            let hash = Sha256::digest(match self.file.form {
                Form::Gzip => read_at_most(MultiGzDecoder::new(file), MAX_CONTENT_BYTES)?,
                Form::Plain => read_at_most(file, MAX_BYTES)?,
            });
            Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        digest().is_ok_and(|digest| digest == self.file.content_sha256)
    }
}

#[cfg(test)]
mod tests;
