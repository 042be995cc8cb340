//! One repository's files on this machine, in the layout of Python's `huggingface_hub`, so that both use one cache.
//!
//! ```text
//! models--ORG--REPO/
//!   refs/main                             the commit of a branch or tag at the last request
//!   blobs/CHECKSUM                        contents, each once
//!   snapshots/COMMIT/unet/config.json     links to the contents, in a commit's layout
//! .locks/models--ORG--REPO/CHECKSUM.lock  held while a content is fetched
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use kiln_data::{Progress, ProgressUnit, Task, read_text};
use tempfile::NamedTempFile;

use crate::checksum::Checksum;
use crate::name::{Kind, is_commit};
use crate::{RepositoryName, TransportError};

/// Whether a file's content is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Soundness {
    /// It has the checksum under which it is stored.
    Verified,
    /// It is a copy without a known checksum, which Python makes on systems without links.
    Unknown,
    /// It has another checksum than the one under which it is stored.
    Damaged,
}

/// One repository in the cache.
pub(crate) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// The place of the repository in the cache at `root`.
    pub(crate) fn new(root: &Path, kind: Kind, name: &RepositoryName) -> Self {
        let folder = format!("{}--{}--{}", kind.plural(), name.owner(), name.name());
        Self {
            locks: root.join(".locks").join(&folder),
            folder: root.join(folder),
        }
    }

    /// The commit of `revision`, as far as the cache knows it.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = read_text(&self.reference(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Stores the commit of a branch or tag.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<(), TransportError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        let write = || {
            let folder = parent(&path);
            fs::create_dir_all(folder)?;
            let file = NamedTempFile::new_in(folder)?;
            fs::write(file.path(), commit)?;
            file.persist(&path).map_err(|error| error.error).map(|_| ())
        };
        write().map_err(cache_error(&path))
    }

    /// The folder with the layout of the repository at `commit`.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The existing files of the snapshot of `commit`, with `/` between folders.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        list(&self.snapshot(commit), "", &mut files);
        files
    }

    /// Whether a file of the snapshot of `commit` is unchanged since its download. Reads the whole file.
    pub(crate) fn soundness(
        &self,
        commit: &str,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<Soundness, TransportError> {
        let path = self.snapshot(commit).join(file);
        let link = fs::read_link(&path).ok();
        let name = link.as_ref().and_then(|link| link.file_name()?.to_str());
        let Some(checksum) = name.and_then(Checksum::parse) else {
            return Ok(Soundness::Unknown);
        };
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let task = format!("checking {file}");
        let task = Task::begin(progress, &task, ProgressUnit::Bytes, Some(size));
        let matches = checksum.matches_with(&path, &|count| task.advance(count));
        match matches.map_err(cache_error(&path))? {
            true => Ok(Soundness::Verified),
            false => Ok(Soundness::Damaged),
        }
    }

    /// The path of a content, which may not exist.
    pub(crate) fn content(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join("blobs").join(checksum.digits())
    }

    /// The path of a content that is being fetched.
    pub(crate) fn partial(&self, checksum: &Checksum) -> PathBuf {
        let mut path = self.content(checksum);
        path.as_mut_os_string().push(".incomplete");
        path
    }

    /// Locks this content until the result is dropped, and waits for other processes that fetch it. Python's locks are
    /// the same.
    pub(crate) fn lock(&self, checksum: &Checksum) -> Result<File, TransportError> {
        let path = self.locks.join(format!("{}.lock", checksum.digits()));
        let lock = || {
            fs::create_dir_all(&self.locks)?;
            fs::create_dir_all(self.folder.join("blobs"))?;
            // Anything else than a file is not opened: a link could lead elsewhere, and a pipe would block.
            if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
                fs::remove_file(&path)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            // If the file system has no locks, the checksum still protects the content.
            let _ = file.lock();
            Ok(file)
        };
        lock().map_err(cache_error(&path))
    }

    /// Makes a content appear as `file` in the snapshot of `commit`.
    pub(crate) fn place(
        &self,
        checksum: &Checksum,
        commit: &str,
        file: &str,
    ) -> Result<(), TransportError> {
        let path = self.snapshot(commit).join(file);
        let place = || {
            fs::create_dir_all(parent(&path))?;
            // Under a temporary name first, so that the link appears atomically.
            let link = parent(&path).join(format!(".{}.link", checksum.digits()));
            remove(&link)?;
            // From snapshots/COMMIT up to the repository's folder, plus one level for each folder below.
            let up = "../".repeat(2 + file.matches('/').count());
            link_to(
                &format!("{up}blobs/{}", checksum.digits()),
                &self.content(checksum),
                &link,
            )?;
            fs::rename(&link, &path)
        };
        place().map_err(cache_error(&path))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }
}

/// Turns a system error about `path` into ours.
pub(crate) fn cache_error(path: &Path) -> impl FnOnce(io::Error) -> TransportError {
    move |problem| TransportError::Cache {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(unix)]
fn link_to(relative: &str, _content: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

// Symbolic links need privileges on Windows; Python copies there, too.
#[cfg(not(unix))]
fn link_to(_relative: &str, content: &Path, link: &Path) -> io::Result<()> {
    fs::hard_link(content, link).or_else(|_| fs::copy(content, link).map(|_| ()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Adds the names of the files in `folder`, whose own name is `prefix`.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // A link to a missing content is not a file.
        let path = entry.path();
        if path.is_dir() {
            list(&path, &format!("{prefix}{name}/"), files);
        } else if path.is_file() {
            files.push(format!("{prefix}{name}"));
        }
    }
}
