//! How much room there is, and how much is needed.

use std::fs;
use std::path::Path;

use crate::cache::Cache;
use crate::client::Listed;
use crate::name::Kind;
use crate::{RepositoryName, TransportError};

/// The bytes of a GiB.
pub(crate) const GIB: f64 = (1u64 << 30) as f64;
/// Data sets from here on, in bytes, are better streamed.
const LARGE: u64 = 32 << 30;

/// The bytes that are free on the disk of `path`, which need not exist yet; `None` if the system does not say.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|folder| folder.exists());
    let here = existing.filter(|folder| !folder.as_os_str().is_empty());
    free_at(here.unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn free_at(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_at(_folder: &Path) -> Option<u64> {
    None
}

/// Refuses `files` that have no room in the cache at `root`, and advises to stream a data set that is very large.
///
/// # Errors
/// [`TransportError::NoRoom`]
pub(crate) fn look_for_room<'a>(
    files: impl Iterator<Item = &'a Listed>,
    cache: &Cache,
    root: &Path,
    kind: Kind,
    name: &RepositoryName,
) -> Result<(), TransportError> {
    let needed = files.fold(0u64, |needed, file| {
        needed.saturating_add(missing(file, cache))
    });
    let free = free(root).unwrap_or(u64::MAX);
    if needed > free {
        return Err(TransportError::NoRoom {
            repository: name.to_string(),
            needed: shown(needed),
            free: shown(free),
            cache: root.to_owned(),
            otherwise: match kind {
                Kind::Model => "or set HF_HUB_CACHE to a folder on another",
                Kind::DataSet => {
                    "or add --set data.stream=true, which fetches the files while the training goes on and keeps only data.cache GiB of them"
                }
            },
        });
    }
    if kind == Kind::DataSet && needed > LARGE {
        tracing::warn!(
            "kiln fetches {} of {name} before it trains; with --set data.stream=true it trains at once, and keeps only data.cache GiB of them",
            shown(needed)
        );
    }
    Ok(())
}

/// `1.5 GiB`, or `0.2 MiB` for less than one.
fn shown(bytes: u64) -> String {
    let gib = bytes as f64 / GIB;
    match gib < 1.0 {
        true => format!("{:.1} MiB", gib * 1024.0),
        false => format!("{gib:.1} GiB"),
    }
}

/// The bytes of a file that are not in the cache.
fn missing(file: &Listed, cache: &Cache) -> u64 {
    let size = |path| fs::metadata(path).map_or(0, |found| found.len());
    let there = file.checksum.as_ref().map_or(0, |checksum| {
        size(cache.content(checksum)).max(size(cache.partial(checksum)))
    });
    file.size.saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_yet_has_the_room_of_those_above() {
        let folder = tempfile::tempdir().unwrap();
        let there = free(folder.path());
        assert_eq!(there.is_some(), cfg!(unix));
        assert_eq!(free(&folder.path().join("a/b")).is_some(), cfg!(unix));
        assert_eq!(free(Path::new("not/there")).is_some(), cfg!(unix));
    }
}
