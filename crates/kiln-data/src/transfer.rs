//! One file from one address: resumed where it stopped, and accepted only after verification.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ureq::config::{Config, RedirectAuthHeaders};
use ureq::http::{StatusCode, header};

use crate::pace::{Pace, TooSlow};
use crate::progress::{Progress, ProgressUnit, Task};
use crate::request::Request;

/// How often to ask a server for the rest after it stops midway, as long as each attempt brings new bytes.
const MAX_ATTEMPTS: usize = 8;
/// The longest wait that a busy server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The failure of one transfer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadFailure {
    /// No connection, or no answer in time.
    #[error("could not be reached ({0})")]
    Unreachable(String),
    /// An HTTP status that is not a success.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// The transfer stopped midway. The received part is kept, and the next run asks for the rest.
    #[error("stopped sending after {received} bytes")]
    CutShort {
        /// How many bytes there are now.
        received: u64,
    },
    /// The server sent too few bytes in a period of time. The received part is kept, and the next run asks for the rest.
    #[error("sends too slowly, {slow}, and stopped at {received} bytes")]
    TooSlow {
        /// How many bytes there are now.
        received: u64,
        /// How slow it was.
        slow: TooSlow,
    },
    /// The server sent something else, such as the login page of a wireless network.
    #[error("sent something else than the file")]
    NotTheFile,
    /// The server announces another size than the file has.
    #[error("announced {announced} bytes, which is not the size of the file")]
    WrongSize {
        /// The announced size in bytes.
        announced: u64,
    },
    /// The file is complete but not the right one.
    #[error("sent a file with the wrong checksum")]
    WrongDigest,
}

/// The HTTP client: it gives up on a server that is silent for `patience`, and returns statuses other than success as
/// answers. Redirects never receive a token; see [`Request`].
pub fn transfer_agent(patience: Duration) -> ureq::Agent {
    Config::builder()
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .timeout_per_write(Some(patience))
        .redirect_auth_headers(RedirectAuthHeaders::Never)
        .http_status_as_error(false)
        .build()
        .into()
}

/// One file from one address into `partial`, which the caller renames after [`Transfer::run`] succeeds.
pub struct Transfer<'a> {
    /// The HTTP client: see [`transfer_agent`].
    pub agent: &'a ureq::Agent,
    /// The address.
    pub url: &'a str,
    /// Value of the `Authorization` header, if the server needs one; not sent to another server after a redirect.
    pub authorization: Option<&'a str>,
    /// The file for the bytes. A partial file from an earlier transfer is resumed.
    pub partial: &'a Path,
    /// The file's size in bytes, if it is known beforehand.
    pub size: Option<u64>,
    /// A larger file is a different one.
    pub largest: u64,
    /// The pauses before each new attempt at a busy server (HTTP 429 or 5xx).
    pub pauses: &'a [Duration],
    /// The slowest allowed speed of the server.
    pub pace: Pace,
    /// Whether the file may begin with these bytes: rejects an HTML page early.
    pub begins_right: &'a dyn Fn(&[u8]) -> bool,
    /// Whether the complete file at this path is the right one.
    pub is_right: &'a dyn Fn(&Path) -> bool,
    /// The task's name for `progress`, such as "downloading train-images-idx3-ubyte.gz".
    pub task: &'a str,
    /// Receives the progress.
    pub progress: &'a dyn Progress,
}

impl Transfer<'_> {
    /// Transfers until the file is complete and right, with new attempts where they can help.
    ///
    /// # Errors
    /// The outer error is about writing `partial` on this machine, and final. The inner one is about the server;
    /// another server may succeed.
    pub fn run(&self) -> io::Result<Result<(), DownloadFailure>> {
        self.make_way()?;
        let mut failure = DownloadFailure::CutShort { received: 0 };
        for _ in 0..MAX_ATTEMPTS {
            let before = self.received();
            match self.attempt(before)? {
                Ok(()) if (self.is_right)(self.partial) => return Ok(Ok(())),
                Ok(()) => {
                    fs::remove_file(self.partial)?;
                    failure = DownloadFailure::WrongDigest;
                    // The existing part may be wrong: try once more from the start.
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

    /// Removes anything at `partial` that is not a plain file with this name only: through a link, the bytes would
    /// overwrite another file.
    fn make_way(&self) -> io::Result<()> {
        match fs::symlink_metadata(self.partial) {
            Ok(found) if !found.is_file() || has_other_names(&found) => {
                fs::remove_file(self.partial)
            }
            _ => Ok(()),
        }
    }

    fn received(&self) -> u64 {
        fs::symlink_metadata(self.partial).map_or(0, |metadata| metadata.len())
    }

    /// Asks for the bytes from `before` on, again after each pause while the server is busy.
    fn ask(&self, before: u64) -> Result<ureq::http::Response<ureq::Body>, DownloadFailure> {
        let mut pauses = self.pauses.iter();
        let range = match before {
            0 => Vec::new(),
            before => vec![(header::RANGE, format!("bytes={before}-"))],
        };
        loop {
            let request = Request {
                agent: self.agent,
                url: self.url,
                authorization: self.authorization,
                headers: &range,
                longest: None,
            };
            let response = request.get().map_err(DownloadFailure::Unreachable)?;
            let status = response.status();
            let busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            match pauses.next() {
                Some(pause) if busy => {
                    let wish = response.headers().get(header::RETRY_AFTER);
                    let wish = wish.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
                    let wish = wish.map_or(*pause, Duration::from_secs);
                    if wish > LONGEST_PAUSE {
                        return Ok(response);
                    }
                    thread::sleep(wish);
                }
                _ => return Ok(response),
            }
        }
    }

    /// Appends the bytes from `before` on, or writes everything if the server does not support ranges.
    fn attempt(&self, before: u64) -> io::Result<Result<(), DownloadFailure>> {
        let response = match self.ask(before) {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let resumes = match response.status() {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT if before > 0 => true,
            // There are no further bytes: the file is complete or wrong, which the check will show.
            StatusCode::RANGE_NOT_SATISFIABLE if before > 0 => return Ok(Ok(())),
            status => return Ok(Err(DownloadFailure::Status(status.as_u16()))),
        };
        let length = response.body().content_length();
        let mut body = response.into_body().into_reader();
        let mut received = if resumes { before } else { 0 };
        let announced = length.map(|length| received.saturating_add(length));
        let end = self.size.or(announced);
        let task = Task::begin(self.progress, self.task, ProgressUnit::Bytes, end);
        task.advance(received);

        let mut chunk = vec![0; 64 << 10];
        let mut count = body.read(&mut chunk).unwrap_or(0);
        let is_other = !resumes && count > 0 && !(self.begins_right)(&chunk[..count]);
        if is_other {
            return Ok(Err(DownloadFailure::NotTheFile));
        }
        if let (Some(size), Some(announced)) = (self.size, announced)
            && announced != size
        {
            return Ok(Err(DownloadFailure::WrongSize { announced }));
        }
        let mut output = OpenOptions::new();
        output
            .create(true)
            .write(true)
            .append(resumes)
            .truncate(!resumes);
        #[cfg(unix)]
        output.custom_flags(libc::O_NOFOLLOW);
        let mut output = output.open(self.partial)?;
        // A failed read counts as the end: the next attempt asks for the rest.
        let mut watch = self.pace.watch();
        while count > 0 {
            output.write_all(&chunk[..count])?;
            task.advance(count as u64);
            received += count as u64;
            if received > self.largest {
                return Ok(Ok(()));
            }
            if let Err(slow) = watch.advance(count as u64) {
                output.sync_all()?;
                return Ok(Err(DownloadFailure::TooSlow { received, slow }));
            }
            count = body.read(&mut chunk).unwrap_or(0);
        }
        output.sync_all()?;
        if end.is_some_and(|end| received < end) {
            return Ok(Err(DownloadFailure::CutShort { received }));
        }
        Ok(Ok(()))
    }
}

/// Whether a file has other names, too.
#[cfg(unix)]
fn has_other_names(file: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 1
}

#[cfg(not(unix))]
fn has_other_names(_file: &fs::Metadata) -> bool {
    false
}
