//! The files below a folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::content::{Content, Entry, Listing};
use super::skipped::{Why, is_hidden};
use crate::error::DataError;
use crate::names;

/// Lists the files below `folder`, through links, without hidden, broken or unreadable ones.
///
/// Every folder is read once: a link to a folder that is read anyway is skipped, so that links to links do not
/// multiply.
pub(super) fn list(folder: &Path) -> Result<Listing, DataError> {
    let reading = |error| DataError::reading(folder, error);
    let mut walk = Walk {
        folder,
        read: BTreeSet::from([folder.canonicalize().map_err(reading)?]),
        links: BTreeSet::new(),
        listing: Listing::default(),
    };
    fs::read_dir(folder).map_err(reading)?;
    walk.below(folder);
    // Real folders come first, so that they keep their names.
    while let Some(link) = walk.links.pop_first() {
        walk.through(&link);
    }
    Ok(walk.listing)
}

struct Walk<'a> {
    folder: &'a Path,
    /// The folders read so far, by their real paths.
    read: BTreeSet<PathBuf>,
    /// Links to folders, still to be followed.
    links: BTreeSet<PathBuf>,
    listing: Listing,
}

impl Walk<'_> {
    /// Adds the files below a folder that counts as read, and keeps its links to folders for later.
    fn below(&mut self, start: &Path) {
        let mut walk = walkdir::WalkDir::new(start).min_depth(1).into_iter();
        while let Some(found) = walk.next() {
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    self.skip(Why::Unreadable, error.path().unwrap_or(start));
                    continue;
                }
            };
            let (path, kind) = (found.path(), found.file_type());
            if is_hidden(found.file_name().as_encoded_bytes()) {
                self.skip(Why::Hidden, path);
                if kind.is_dir() {
                    walk.skip_current_dir();
                }
            } else if kind.is_dir() {
                // A link may have led here before.
                if let Ok(real) = path.canonicalize()
                    && !self.read.insert(real)
                {
                    self.skip(Why::Repeated, path);
                    walk.skip_current_dir();
                }
            } else if kind.is_symlink() {
                match fs::metadata(path) {
                    Ok(target) if target.is_dir() => {
                        self.links.insert(path.to_owned());
                    }
                    Ok(target) => self.add(path, target.is_file()),
                    Err(_) => self.skip(Why::Dangling, path),
                }
            } else {
                self.add(path, kind.is_file());
            }
        }
    }

    /// The same for the folder that a link leads to, if it is not read yet.
    fn through(&mut self, link: &Path) {
        let real = link.canonicalize().ok();
        let place = link.parent().and_then(|parent| parent.canonicalize().ok());
        let (Some(real), Some(place)) = (real, place) else {
            return self.skip(Why::Unreadable, link);
        };
        if place.starts_with(&real) {
            self.skip(Why::Circle, link);
        } else if self.read.insert(real) {
            self.below(link);
        } else {
            self.skip(Why::Repeated, link);
        }
    }

    fn add(&mut self, path: &Path, is_file: bool) {
        if !is_file {
            return self.skip(Why::Special, path);
        }
        self.listing.entries.push(Entry {
            name: name_below(self.folder, path),
            content: Content::File(path.to_owned()),
        });
    }

    fn skip(&mut self, why: Why, path: &Path) {
        let name = name_below(self.folder, path);
        self.listing.skipped.add(why, &name);
    }
}

fn name_below(folder: &Path, path: &Path) -> String {
    names::of_path(path.strip_prefix(folder).unwrap_or(path))
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::examples::Files;

    fn some_files() -> tempfile::TempDir {
        let mut files = Files::default();
        for name in ["a/1", "b/2", "3"] {
            files.add(name, b"x".to_vec());
        }
        files.folder()
    }

    fn shown(folder: &Path) -> (Vec<String>, String) {
        let mut listing = list(folder).unwrap();
        listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
        let names = listing.entries.into_iter().map(|entry| entry.name);
        (names.collect(), listing.skipped.to_string())
    }

    #[test]
    fn links_are_followed_and_broken_ones_counted() {
        let folder = some_files();
        let path = |name: &str| folder.path().join(name);
        symlink(path("a"), path("c")).unwrap();
        let elsewhere = some_files();
        symlink(elsewhere.path().join("a"), path("e")).unwrap();
        symlink(folder.path(), path("a/up")).unwrap();
        symlink("nowhere", path("README")).unwrap();
        symlink("self", path("self")).unwrap();
        let (names, skipped) = shown(folder.path());
        assert_eq!(names, ["3", "a/1", "b/2", "e/1"]);
        for words in [
            "2 links to nothing (as ",
            "1 link in a circle (a/up)",
            "1 link to a folder that is read already (c)",
        ] {
            assert!(skipped.contains(words), "{words}: {skipped}");
        }
    }

    #[test]
    fn links_to_links_do_not_multiply() {
        let folder = tempfile::tempdir().unwrap();
        let path = |level: usize| folder.path().join(level.to_string());
        for level in 0..24 {
            fs::create_dir(path(level)).unwrap();
            fs::write(path(level).join("image"), "x").unwrap();
            for name in ["a", "b"] {
                symlink(path(level + 1), path(level).join(name)).unwrap();
            }
        }
        let (names, skipped) = shown(&path(0));
        assert_eq!(names.len(), 24);
        assert!(
            skipped.contains("23 links to folders that are read already (as "),
            "{skipped}"
        );
        // Of the folders above, each is read once.
        assert_eq!(shown(folder.path()).0.len(), 24);
    }

    #[test]
    fn hidden_folders_are_not_entered() {
        let folder = some_files();
        let hidden = folder.path().join(".thumbnails");
        fs::create_dir_all(hidden.join("deep")).unwrap();
        fs::write(hidden.join("deep/4"), "x").unwrap();
        fs::write(folder.path().join("a/._1"), "x").unwrap();
        let (names, skipped) = shown(folder.path());
        assert_eq!(names.len(), 3);
        assert!(
            skipped.starts_with("skipped 2 entries: 2 hidden (as "),
            "{skipped}"
        );
        // A folder that the user names is not hidden.
        assert_eq!(shown(&hidden).0, ["deep/4"]);
    }

    #[test]
    fn sockets_and_devices_are_counted() {
        let folder = some_files();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        symlink("/dev/zero", folder.path().join("zero.png")).unwrap();
        let (names, skipped) = shown(folder.path());
        assert_eq!(names.len(), 3);
        assert_eq!(
            skipped.split(" (as").next(),
            Some("skipped 2 entries: 2 devices or pipes")
        );
    }

    #[test]
    fn names_that_are_not_utf8_stay_apart() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"\xca\xd0"[..], b"\xca\xd1"] {
            let class = folder.path().join(OsStr::from_bytes(name));
            // Some file systems do not allow such names.
            if fs::create_dir(&class).is_err() {
                return;
            }
            fs::write(class.join("1"), "x").unwrap();
        }
        assert_eq!(shown(folder.path()).0, ["\\xca\\xd0/1", "\\xca\\xd1/1"]);
    }

    #[test]
    fn an_unreadable_folder_is_counted() {
        use std::os::unix::fs::PermissionsExt;
        let folder = some_files();
        let locked = folder.path().join("b");
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        let is_superuser = fs::read_dir(&locked).is_ok();
        let (names, skipped) = shown(folder.path());
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
        if !is_superuser {
            assert_eq!(names, ["3", "a/1"]);
            assert_eq!(skipped, "skipped 1 entry: 1 unreadable (b)");
        }
    }
}
