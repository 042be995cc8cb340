//! One repository on the Hub, asked over the network.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::thread;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeDataset, RepoTypeModel};
use kiln_data::{DownloadFailure, Progress, Transfer, transfer_agent};
use ureq::http::{HeaderMap, header};

use super::cache::{Cache, cache_error};
use super::checksum::Checksum;
use super::name::is_commit;
use super::refusal::is_busy;
use super::{HubSettings, RepositoryName, TransportError};

/// Redirects from one name of a repository to another one that are followed.
const MAX_REDIRECTS: usize = 5;
/// How `hf-hub` asks again when the network or the server fails it.
const API_ATTEMPTS: usize = 3;

/// A file as the Hub lists it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Whether Git LFS keeps it.
    is_large: bool,
    /// Git's name for what it keeps: the content, or its Git LFS pointer.
    object: String,
}

/// What a repository is for. The Hub has a place of its own for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    DataSet,
}

impl Kind {
    /// What the cache calls repositories of this kind.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::DataSet => "datasets",
        }
    }

    /// What stands before a repository's name in the addresses of its page and files.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::DataSet => "datasets/",
        }
    }
}

/// The API of one repository.
enum Api {
    Model(HFRepositorySync<RepoTypeModel>),
    DataSet(HFRepositorySync<RepoTypeDataset>),
}

/// One repository on the Hub.
pub(crate) struct Remote<'a> {
    kind: Kind,
    pub(super) settings: &'a HubSettings,
    pub(super) name: &'a RepositoryName,
    /// The API.
    pub(super) client: HFClientSync,
    api: Api,
    /// What sends and receives the files themselves.
    pub(super) agent: ureq::Agent,
}

impl<'a> Remote<'a> {
    /// Prepares to ask for `name`; asks nothing yet.
    pub(crate) fn new(
        settings: &'a HubSettings,
        kind: Kind,
        name: &'a RepositoryName,
    ) -> Result<Self, TransportError> {
        let client = || {
            let client = reqwest::Client::builder()
                .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.patience)
                .read_timeout(settings.patience)
                .build()?;
            let mut builder = HFClient::builder()
                .endpoint(&settings.endpoint)
                .cache_dir(&settings.cache)
                .client(client)
                .retry_max_attempts(API_ATTEMPTS);
            if let Some(pause) = settings.pauses.first() {
                // It doubles the pause each time, and first of all.
                builder = builder.retry_base_delay(*pause / 4);
            }
            if let Some(token) = &settings.token {
                builder = builder.token(token);
            }
            builder.build_sync()
        };
        let client = client().map_err(|problem: HFError| TransportError::NotAHub {
            endpoint: settings.endpoint.clone(),
            problem: problem.to_string(),
        })?;
        Ok(Self {
            settings,
            name,
            kind,
            api: match kind {
                Kind::Model => Api::Model(client.model(name.owner(), name.name())),
                Kind::DataSet => Api::DataSet(client.dataset(name.owner(), name.name())),
            },
            client,
            agent: transfer_agent(settings.patience),
        })
    }

    /// The commit that the name's revision is now.
    pub(crate) fn commit(&self) -> Result<String, TransportError> {
        let revision = self.name.revision();
        let commit = match &self.api {
            Api::Model(api) => api.info().revision(revision).send().map(|info| info.sha),
            Api::DataSet(api) => api.info().revision(revision).send().map(|info| info.sha),
        };
        let commit = commit.map_err(|error| self.api_error(error))?;
        let commit = commit.filter(|commit| is_commit(commit));
        commit.ok_or_else(|| self.not_a_hub("it names no commit"))
    }

    /// All files at `commit`.
    pub(crate) fn files(&self, commit: &str) -> Result<BTreeMap<String, Listed>, TransportError> {
        let tree = match &self.api {
            Api::Model(api) => api.list_tree().revision(commit).recursive(true).send(),
            Api::DataSet(api) => api.list_tree().revision(commit).recursive(true).send(),
        };
        let tree = tree.map_err(|error| self.api_error(error))?;
        let files = tree.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File {
                oid,
                size,
                path,
                lfs,
                ..
            } if stays_inside(&path) => Some((
                path,
                Listed {
                    size,
                    is_large: lfs.is_some(),
                    object: oid,
                },
            )),
            _ => None,
        });
        Ok(files.collect())
    }

    /// Brings `file` at `commit` into the cache, unless it is there.
    pub(crate) fn fetch(
        &self,
        cache: &Cache,
        commit: &str,
        file: &str,
        listed: &Listed,
        progress: &dyn Progress,
    ) -> Result<(), TransportError> {
        let has_size =
            |path| fs::metadata(path).is_ok_and(|metadata| metadata.len() == listed.size);
        if has_size(cache.snapshot(commit).join(file)) {
            return Ok(());
        }
        let url = self.address(commit, file);
        let checksum = self.checksum(&url, file, listed)?;
        let content = cache.content(&checksum);
        let _lock = cache.lock(&checksum)?;
        // Somebody else may have brought it, for this commit or another one.
        if !has_size(content.clone()) {
            let partial = cache.partial(&checksum);
            let is_pointer = Cell::new(false);
            let authorization = self.settings.authorization();
            let transfer = Transfer {
                agent: &self.agent,
                url: &url,
                authorization: authorization.as_deref(),
                partial: &partial,
                size: Some(listed.size),
                largest: listed.size,
                pauses: &self.settings.pauses,
                begins_right: &|bytes| {
                    is_pointer.set(listed.is_large && bytes.starts_with(POINTER));
                    !is_pointer.get() && !is_page(bytes)
                },
                is_right: &|path| {
                    has_size(path.to_owned()) && checksum.matches(path).unwrap_or(false)
                },
                task: &format!("{}: {file}", self.name),
                progress,
            };
            match transfer.run().map_err(cache_error(&partial))? {
                Ok(()) => {}
                Err(DownloadFailure::NotTheFile) if is_pointer.get() => {
                    return Err(TransportError::Pointer {
                        file: file.to_owned(),
                        endpoint: self.settings.endpoint.clone(),
                    });
                }
                Err(failure) => return Err(self.transfer_error(failure, file, listed.size)),
            }
            fs::rename(&partial, &content).map_err(cache_error(&content))?;
        }
        cache.place(&checksum, commit, file)
    }

    /// `ORG/REPO`.
    pub(super) fn id(&self) -> String {
        self.name.id()
    }

    /// An address of the API.
    pub(super) fn api_url(&self, path: &str) -> String {
        format!("{}/api/models/{}/{path}", self.settings.endpoint, self.id())
    }

    /// The address of a file.
    fn address(&self, commit: &str, file: &str) -> String {
        let (endpoint, prefix) = (&self.settings.endpoint, self.kind.prefix());
        let file = encoded(file);
        format!("{endpoint}/{prefix}{}/resolve/{commit}/{file}", self.id())
    }

    /// What the content of a file should be: as the server says before it sends it or a redirect to it, where
    /// `X-Linked-Etag` is of the file itself and `ETag` may be of its pointer.
    fn checksum(&self, url: &str, file: &str, listed: &Listed) -> Result<Checksum, TransportError> {
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
    /// repository's former name to its present one, and none to where the content lies.
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

/// How every Git LFS pointer begins.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Whether an answer is a page of HTML.
fn is_page(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    let start = start[..start.len().min(14)].to_ascii_lowercase();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// Whether a listed path, which comes from the network, is below the folder that it will be written to.
fn stays_inside(path: &str) -> bool {
    let is_name =
        |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    path.split('/').all(is_name)
}

/// A path in an address: all but letters, digits, `-`, `_`, `.`, `~` and the slashes as `%20`.
pub(super) fn encoded(path: &str) -> String {
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
pub(super) fn origin(url: &str) -> &str {
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

    #[test]
    fn pages_are_told_from_files() {
        for page in ["<!DOCTYPE html><p>", "\n  <html lang=en>"] {
            assert!(is_page(page.as_bytes()), "{page}");
        }
        for file in ["", "{\"a\": 1}", "<svg>", "<htm"] {
            assert!(!is_page(file.as_bytes()), "{file}");
        }
    }
}
