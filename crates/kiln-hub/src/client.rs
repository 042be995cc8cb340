//! Access to one repository on the Hub over the network.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::thread;

use kiln_checkpoint::foreign::{is_page, is_pointer};
use kiln_data::{DownloadFailure, Origin, Progress, Transfer, is_unprintable, transfer_agent};
use ureq::http::{HeaderMap, StatusCode, header};

use crate::cache::{Cache, Soundness, cache_error};
use crate::checksum::Checksum;
use crate::name::Kind;
use crate::{HubSettings, RepositoryName, TransportError};

/// The largest number of redirects from one name of a repository to another.
const MAX_REDIRECTS: usize = 5;

/// A file in the Hub's list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Whether Git LFS keeps it.
    pub(crate) is_large: bool,
    /// The checksum of its content, if the list has it.
    pub(crate) checksum: Option<Checksum>,
    /// Git's name for the stored object: the content, or its Git LFS pointer.
    pub(crate) object: String,
}

/// Where a transfer goes, and what must have come.
#[derive(Clone, Copy)]
pub(crate) struct Into<'a> {
    pub(crate) partial: &'a Path,
    pub(crate) checksum: &'a Checksum,
}

/// One repository on the Hub.
pub(crate) struct Remote<'a> {
    pub(crate) kind: Kind,
    pub(crate) settings: &'a HubSettings,
    pub(crate) name: &'a RepositoryName,
    /// The HTTP client.
    pub(crate) agent: ureq::Agent,
}

impl<'a> Remote<'a> {
    /// Prepares requests for `name`; sends nothing yet.
    pub(crate) fn new(
        settings: &'a HubSettings,
        kind: Kind,
        name: &'a RepositoryName,
    ) -> Result<Self, TransportError> {
        let not_a_hub = |endpoint: &str, problem: &str| TransportError::NotAHub {
            endpoint: endpoint.to_owned(),
            problem: problem.to_owned(),
        };
        if let Some((_, host)) = settings.endpoint.split_once('@') {
            // The part before it may be a password, which messages must not show.
            let problem = "its address holds a user name; leave it out, and set HF_TOKEN instead";
            return Err(not_a_hub(host, problem));
        }
        if Origin::of(&settings.endpoint).is_none() {
            return Err(not_a_hub(&settings.endpoint, "it is no address of HTTP"));
        }
        Ok(Self {
            settings,
            name,
            kind,
            agent: transfer_agent(settings.patience),
        })
    }

    /// Fetches `file` at `commit` into the cache, unless it is there, and returns whether its content is known to be
    /// right.
    pub(crate) fn fetch(
        &self,
        cache: &Cache,
        commit: &str,
        file: &str,
        listed: &Listed,
        progress: &dyn Progress,
    ) -> Result<Soundness, TransportError> {
        let has_size =
            |path| fs::metadata(path).is_ok_and(|metadata| metadata.len() == listed.size);
        let here = cache.snapshot(commit).join(file);
        let mut is_copy = false;
        if has_size(here.clone()) {
            match cache.soundness(commit, file, progress)? {
                Soundness::Verified => return Ok(Soundness::Verified),
                // Python makes copies on systems without links. The Hub gives their checksum.
                Soundness::Unknown => is_copy = true,
                Soundness::Damaged => {}
            }
        }
        let url = self.address(commit, file);
        let checksum = match self.checksum(&url, file, listed) {
            Err(TransportError::NoChecksum { .. }) if is_copy => return Ok(Soundness::Unknown),
            checksum => checksum?,
        };
        if is_copy && checksum.matches(&here).unwrap_or(false) {
            return Ok(Soundness::Verified);
        }
        let content = cache.content(&checksum);
        let _lock = cache.lock(&checksum)?;
        // Another process may have fetched it, for this commit or another one.
        let is_here = has_size(content.clone()) && checksum.matches(&content).unwrap_or(false);
        if !is_here {
            let partial = cache.partial(&checksum);
            let into = Into {
                partial: &partial,
                checksum: &checksum,
            };
            self.transfer(&url, file, listed, into, progress)?;
            fs::rename(&partial, &content).map_err(cache_error(&content))?;
        }
        cache.place(&checksum, commit, file)?;
        Ok(Soundness::Verified)
    }

    /// Transfers a file, or the rest of it, until it is complete and has its checksum.
    pub(crate) fn transfer(
        &self,
        url: &str,
        file: &str,
        listed: &Listed,
        into: Into<'_>,
        progress: &dyn Progress,
    ) -> Result<(), TransportError> {
        let came_pointer = Cell::new(false);
        let authorization = self.settings.authorization();
        let has_size =
            |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() == listed.size);
        let transfer = Transfer {
            agent: &self.agent,
            url,
            authorization: authorization.as_deref(),
            partial: into.partial,
            size: Some(listed.size),
            largest: listed.size,
            pauses: &self.settings.pauses,
            pace: self.settings.pace,
            begins_right: &|bytes| {
                came_pointer.set(listed.is_large && is_pointer(bytes));
                !came_pointer.get() && !is_page(bytes)
            },
            is_right: &|path| has_size(path) && into.checksum.matches(path).unwrap_or(false),
            task: &format!("{}: {file}", self.name),
            progress,
        };
        match transfer.run().map_err(cache_error(into.partial))? {
            Ok(()) => Ok(()),
            Err(DownloadFailure::NotTheFile) if came_pointer.get() => {
                Err(TransportError::Pointer {
                    file: file.to_owned(),
                    endpoint: self.settings.endpoint.clone(),
                })
            }
            Err(failure) => Err(self.transfer_error(failure, file, listed.size)),
        }
    }

    /// `ORG/REPO`.
    pub(crate) fn id(&self) -> String {
        self.name.id()
    }

    /// The address of a file.
    pub(crate) fn address(&self, commit: &str, file: &str) -> String {
        let (endpoint, prefix) = (&self.settings.endpoint, self.kind.prefix());
        let file = encoded(file);
        format!("{endpoint}/{prefix}{}/resolve/{commit}/{file}", self.id())
    }

    /// The checksum of a file's content, from the headers before the file or a redirect to it: `X-Linked-Etag` is for
    /// the file itself, and `ETag` may be for its pointer.
    pub(crate) fn checksum(
        &self,
        url: &str,
        file: &str,
        listed: &Listed,
    ) -> Result<Checksum, TransportError> {
        let headers = self.head(url, file)?;
        let tag = ["x-linked-etag", header::ETAG.as_str()]
            .iter()
            .filter_map(|name| Checksum::parse(headers.get(*name)?.to_str().ok()?))
            .find(|checksum| matches!(checksum, Checksum::Sha256(_)) || !listed.is_large);
        let object = || Checksum::parse(&listed.object).filter(|_| !listed.is_large);
        tag.or_else(object)
            .ok_or_else(|| TransportError::NoChecksum {
                file: file.to_owned(),
                endpoint: self.settings.endpoint.clone(),
            })
    }

    /// The headers with which the server announces a file. Follows redirects within the server, which lead from a
    /// repository's old name to its current one, but not redirects to the content.
    fn head(&self, url: &str, file: &str) -> Result<HeaderMap, TransportError> {
        let mut url = url.to_owned();
        let mut redirects = 0;
        let mut pauses = self.settings.pauses.iter();
        while redirects < MAX_REDIRECTS {
            let mut request = self.agent.head(&url);
            if let Some(authorization) = self.settings.authorization() {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let request = request
                .config()
                .max_redirects(0)
                .max_redirects_will_error(false);
            let response = request.build().call();
            let response = response.map_err(|error| self.unreachable(error.to_string()))?;
            let (status, headers) = (response.status(), response.headers());
            let location = headers.get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            match location {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = format!("{}{path}", origin(&self.settings.endpoint));
                    redirects += 1;
                }
                _ if status.is_success() || status.is_redirection() => return Ok(headers.clone()),
                _ => match pauses.next() {
                    Some(pause) if is_busy(status) => thread::sleep(*pause),
                    _ => return Err(self.status_error(status, Some(headers), file)),
                },
            }
        }
        Err(self.not_a_hub("it redirects in a circle"))
    }
}

/// Whether to try again later.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// Whether a listed path, which comes from the network, stays inside the folder that it will be written to.
pub(crate) fn stays_inside(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']);
    path.split('/').all(is_name) && !path.contains(is_unprintable)
}

/// A path in an address: everything except letters, digits, `-`, `_`, `.`, `~` and slashes becomes like `%20`.
pub(crate) fn encoded(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// `https://host:port` of an address.
pub(crate) fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |position| position + 3);
    let end = url[host..]
        .find('/')
        .map_or(url.len(), |slash| host + slash);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_not_listed() {
        for path in ["unet/config.json", "a b/ü.bin", "..."] {
            assert!(stays_inside(path), "{path}");
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "C:/x",
            "a\\..\\b",
            "a\u{1b}[2J",
            "a\0",
        ] {
            assert!(!stays_inside(path), "{path}");
        }
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encoded("a b/ü#?.bin"), "a%20b/%C3%BC%23%3F.bin");
        for url in ["http://a:1", "http://a:1/", "http://a:1/b/c"] {
            assert_eq!(origin(url), "http://a:1");
        }
    }
}
