//! From the Hub into the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use kiln_checkpoint::layout::INDEX;
use kiln_checkpoint::{CheckpointError, ModelIndex, ModelSource};
use kiln_data::Progress;

use crate::cache::{Cache, Soundness, cache_error};
use crate::client::{Listed, Remote};
use crate::name::{Kind, is_commit};
use crate::room::look_for_room;
use crate::selection::{Selection, Wanted};
use crate::{HubSettings, RepositoryName, TransportError};

/// Largest file, in bytes, that is read to find out which others are needed.
const MAX_INDEX: u64 = 16 << 20;

/// A repository's files on this machine.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Their folder, in the diffusers layout. It is in the cache: do not write to it.
    pub folder: PathBuf,
    /// Their commit.
    pub commit: String,
    /// Their names, with `/` between folders.
    pub files: Vec<String>,
    /// Their size in bytes, all together.
    pub bytes: u64,
    /// The files that are copies in the cache without a known checksum. All others have been checked.
    pub unverified: Vec<String>,
    /// Why the cache could not be checked for updates, if it could not.
    pub unreachable: Option<String>,
}

/// Fetches the files of `name` that are `wanted` into the cache, and returns their place.
///
/// Files in the cache, from this program or from Python, are not fetched again, unless their content no longer matches
/// their checksum. A transfer continues where an earlier attempt stopped, and the file appears under its name when its
/// size and its checksum are right. A commit that is complete in the cache needs no request, because it cannot change;
/// and if the Hub is out of reach, the cache's last state of a branch is used.
///
/// # Errors
/// The message says what is missing, refused or broken, and what to do.
pub fn pull(
    name: &RepositoryName,
    wanted: Wanted,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Pulled, TransportError> {
    let select = |selection: Selection<'_>| selection.of(wanted);
    let check = |file: &str, folder: &Path| match file {
        // Refuse a model of another kind before its weights are fetched.
        INDEX if wanted == Wanted::Model => {
            ModelIndex::read(&ModelSource::Folder(folder.to_owned())).map(|_| ())
        }
        _ => Ok(()),
    };
    fetch(name, Kind::Model, &select, &check, settings, progress)
}

/// Chooses the files that are wanted.
pub(crate) type Select<'a> = &'a dyn Fn(Selection<'_>) -> Result<Vec<String>, TransportError>;
/// Checks a file, in the folder where it is now, before the others are fetched.
pub(crate) type Check<'a> = &'a dyn Fn(&str, &Path) -> Result<(), CheckpointError>;

/// [`pull`] for repositories of any kind.
pub(crate) fn fetch(
    name: &RepositoryName,
    kind: Kind,
    select: Select<'_>,
    check: Check<'_>,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<Pulled, TransportError> {
    let pull = Pull {
        name,
        kind,
        select,
        check,
        settings,
        cache: &Cache::new(&settings.cache, kind, name),
        progress,
    };
    if settings.offline {
        return pull.look_up();
    }
    if is_commit(name.revision())
        && let Ok(pulled) = pull.look_up()
    {
        return Ok(pulled);
    }
    match pull.ask_hub() {
        Err(error @ TransportError::Unreachable { .. }) => {
            let reason = error.to_string();
            let pulled = pull.look_up().map_err(|_| error)?;
            Ok(Pulled {
                unreachable: Some(reason),
                ..pulled
            })
        }
        outcome => outcome,
    }
}

struct Pull<'a> {
    name: &'a RepositoryName,
    kind: Kind,
    select: Select<'a>,
    check: Check<'a>,
    settings: &'a HubSettings,
    cache: &'a Cache,
    progress: &'a dyn Progress,
}

impl Pull<'_> {
    fn ask_hub(&self) -> Result<Pulled, TransportError> {
        let remote = Remote::new(self.settings, self.kind, self.name)?;
        let commit = remote.commit(self.progress)?;
        let listing = remote.files(&commit, self.progress)?;
        let fetch = |file: &str| match listing.get(file) {
            Some(listed) => remote.fetch(self.cache, &commit, file, listed, self.progress),
            None => Ok(Soundness::Unknown),
        };
        let names = listing.keys().cloned().collect();
        let files = self.select(&commit, &names, &|file| {
            self.check_size(file, &listing)?;
            fetch(file).map(|_| ())
        })?;
        look_for_room(
            files.iter().filter_map(|file| listing.get(file)),
            self.cache,
            &self.settings.cache,
            self.kind,
            self.name,
        )?;
        let unverified = unverified(&files, fetch)?;
        // Last, so that a branch never points to an incomplete commit.
        self.cache.remember(self.name.revision(), &commit)?;
        Ok(self.pulled(commit, files, unverified))
    }

    fn look_up(&self) -> Result<Pulled, TransportError> {
        let missing = |missing: &str| TransportError::NotCached {
            repository: self.name.to_string(),
            missing: missing.to_owned(),
            cache: self.settings.cache.clone(),
        };
        let commit = self.cache.commit(self.name.revision());
        let commit = commit.ok_or_else(|| missing("anything"))?;
        let names = self.cache.files(&commit).into_iter().collect();
        let check = |file: &str| match self.cache.soundness(&commit, file, self.progress)? {
            Soundness::Damaged => Err(TransportError::DamagedCache {
                repository: self.name.to_string(),
                path: self.cache.snapshot(&commit).join(file),
            }),
            soundness => Ok(soundness),
        };
        let files = self.select(&commit, &names, &|file| check(file).map(|_| ()));
        let files = files.map_err(|error| match error {
            TransportError::NotAModel { .. } => missing("the model"),
            TransportError::Incomplete { missing: file, .. } => missing(&file),
            other => other,
        })?;
        let unverified = unverified(&files, check)?;
        Ok(self.pulled(commit, files, unverified))
    }

    /// The files that are wanted, from `names`; `fetch` gets a file that must be read to decide.
    fn select(
        &self,
        commit: &str,
        names: &BTreeSet<String>,
        fetch: &dyn Fn(&str) -> Result<(), TransportError>,
    ) -> Result<Vec<String>, TransportError> {
        let folder = self.cache.snapshot(commit);
        let selection = Selection {
            repository: &self.name.to_string(),
            files: names,
            read: &mut |file| {
                fetch(file)?;
                (self.check)(file, &folder)?;
                let path = folder.join(file);
                fs::read_to_string(&path).map_err(cache_error(&path))
            },
        };
        (self.select)(selection)
    }

    /// Refuses to read a file that is too large for an index.
    fn check_size(
        &self,
        file: &str,
        listing: &BTreeMap<String, Listed>,
    ) -> Result<(), TransportError> {
        match listing.get(file) {
            Some(listed) if listed.size > MAX_INDEX => Err(TransportError::Damaged {
                repository: self.name.to_string(),
                file: file.to_owned(),
                problem: format!("it has {} bytes", listed.size),
            }),
            _ => Ok(()),
        }
    }

    fn pulled(&self, commit: String, files: Vec<String>, unverified: Vec<String>) -> Pulled {
        let folder = self.cache.snapshot(&commit);
        let size = |file| fs::metadata(folder.join(file)).map_or(0, |metadata| metadata.len());
        Pulled {
            bytes: files.iter().map(size).sum(),
            folder,
            commit,
            files,
            unverified,
            unreachable: None,
        }
    }
}

/// The `files` whose content `soundness` does not know.
fn unverified(
    files: &[String],
    soundness: impl Fn(&str) -> Result<Soundness, TransportError>,
) -> Result<Vec<String>, TransportError> {
    let mut unverified = Vec::new();
    for file in files {
        if soundness(file)? == Soundness::Unknown {
            unverified.push(file.clone());
        }
    }
    Ok(unverified)
}
