//! One file from one address: continued where it stopped, and only accepted once it is known to be right.

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

/// How often a server that stops midway is asked for the rest, as long as each time brings something new.
const MAX_ATTEMPTS: usize = 8;
/// The longest that a busy server is waited for at its own wish.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What was wrong with one transfer.
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
    /// It sent less than it should in a while. What came is kept, and the next run asks for the rest.
    #[error("sends too slowly, {slow}, and stopped at {received} bytes")]
    TooSlow {
        /// How many bytes there are now.
        received: u64,
        /// How slow it was.
        slow: TooSlow,
    },
    /// Something else came, as the login page of a wireless network.
    #[error("sent something else than the file")]
    NotTheFile,
    /// It announces another size than the file has.
    #[error("announced {announced} bytes, which is not the size of the file")]
    WrongSize {
        /// How many bytes it would send.
        announced: u64,
    },
    /// The file is complete but not the right one.
    #[error("sent a file with the wrong checksum")]
    WrongDigest,
}

/// What connects to servers: it gives up on one that says nothing for `patience`, and lets statuses that are no
/// success be looked at. A token goes nowhere that a redirect leads to; see [`Request`].
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

/// One file from one address into `partial`, which is for the caller to rename once [`Transfer::run`] succeeds.
pub struct Transfer<'a> {
    /// What connects: see [`transfer_agent`].
    pub agent: &'a ureq::Agent,
    /// The address.
    pub url: &'a str,
    /// Value of the `Authorization` header, if the server wants one; not for another that it redirects to.
    pub authorization: Option<&'a str>,
    /// Where the bytes go. What an earlier transfer left there is continued.
    pub partial: &'a Path,
    /// The file's size in bytes, where it is known beforehand.
    pub size: Option<u64>,
    /// More bytes than this are another file.
    pub largest: u64,
    /// How long a busy server (HTTP 429 or 5xx) is left alone before it is asked again, each time.
    pub pauses: &'a [Duration],
    /// The slowest that the server may send.
    pub pace: Pace,
    /// Whether the file may begin with these bytes: sorts out a page of HTML early.
    pub begins_right: &'a dyn Fn(&[u8]) -> bool,
    /// Whether the complete file at this path is the right one.
    pub is_right: &'a dyn Fn(&Path) -> bool,
    /// What is reported: as "downloading train-images-idx3-ubyte.gz".
    pub task: &'a str,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
}

impl Transfer<'_> {
    /// Transfers until the file is complete and right, asking again where that can help.
    ///
    /// # Errors
    /// The outer error is this machine's, of writing `partial`, and final. The inner one is the server's; another may
    /// do better.
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

    /// Removes what stands in place of the file and is not it alone: by a link, the bytes would overwrite another file.
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

    /// Asks for what follows the first `before` bytes, again after each pause while the server is busy.
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

    /// Appends what follows the first `before` bytes, or writes everything where the server does not know ranges.
    fn attempt(&self, before: u64) -> io::Result<Result<(), DownloadFailure>> {
        let response = match self.ask(before) {
            Ok(response) => response,
            Err(failure) => return Ok(Err(failure)),
        };
        let resumes = match response.status() {
            StatusCode::OK => false,
            StatusCode::PARTIAL_CONTENT if before > 0 => true,
            // There is nothing after what we have: it is complete, or wrong, as the check will tell.
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
        // A failing read counts as the end: what is missing then is asked for again.
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

/// Whether a file is known by other names, too.
#[cfg(unix)]
fn has_other_names(file: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 1
}

#[cfg(not(unix))]
fn has_other_names(_file: &fs::Metadata) -> bool {
    false
}
