//! The files below a folder.

use std::path::Path;

use super::{Content, Entry, Listing, Why, is_hidden};
use crate::error::DataError;
use crate::names;

/// Lists the files below `folder`, through links, without what is hidden, broken or out of reach.
pub(super) fn list(folder: &Path) -> Result<Listing, DataError> {
    let mut listing = Listing::default();
    let mut walk = walkdir::WalkDir::new(folder).follow_links(true).into_iter();
    while let Some(found) = walk.next() {
        let found = match found {
            Ok(found) => found,
            Err(error) if error.depth() == 0 => {
                let reason = error
                    .into_io_error()
                    .unwrap_or_else(|| std::io::Error::other("it links to itself"));
                return Err(DataError::reading(folder, reason));
            }
            Err(error) => {
                let path = error.path().unwrap_or(folder);
                let why = if error.loop_ancestor().is_some() {
                    Why::Circle
                } else if path.is_symlink() {
                    Why::Dangling
                } else {
                    Why::Unreadable
                };
                listing.passed_by.add(why, &name_below(folder, path));
                continue;
            }
        };
        let name = name_below(folder, found.path());
        if found.depth() > 0 && is_hidden(found.file_name().as_encoded_bytes()) {
            listing.passed_by.add(Why::Hidden, &name);
            if found.file_type().is_dir() {
                walk.skip_current_dir();
            }
        } else if found.file_type().is_file() {
            listing.entries.push(Entry {
                name,
                content: Content::File(found.into_path()),
            });
        } else if !found.file_type().is_dir() {
            listing.passed_by.add(Why::Special, &name);
        }
    }
    Ok(listing)
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
        (names.collect(), listing.passed_by.to_string())
    }

    #[test]
    fn links_are_followed_and_broken_ones_counted() {
        let folder = some_files();
        let path = |name: &str| folder.path().join(name);
        symlink(path("a"), path("c")).unwrap();
        symlink(folder.path(), path("a/up")).unwrap();
        symlink("nowhere", path("README")).unwrap();
        symlink("self", path("self")).unwrap();
        let (names, passed_by) = shown(folder.path());
        assert_eq!(names, ["3", "a/1", "b/2", "c/1"]);
        assert!(passed_by.contains("2 links to nothing (as "), "{passed_by}");
        assert!(passed_by.contains("2 links in circles (as "), "{passed_by}");
    }

    #[test]
    fn hidden_folders_are_not_entered() {
        let folder = some_files();
        let hidden = folder.path().join(".thumbnails");
        fs::create_dir_all(hidden.join("deep")).unwrap();
        fs::write(hidden.join("deep/4"), "x").unwrap();
        fs::write(folder.path().join("a/._1"), "x").unwrap();
        let (names, passed_by) = shown(folder.path());
        assert_eq!(names.len(), 3);
        assert!(
            passed_by.starts_with("passed by 2 entries: 2 hidden (as "),
            "{passed_by}"
        );
        // What was named is not hidden.
        assert_eq!(shown(&hidden).0, ["deep/4"]);
    }

    #[test]
    fn sockets_and_devices_are_counted() {
        let folder = some_files();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        symlink("/dev/zero", folder.path().join("zero.png")).unwrap();
        let (names, passed_by) = shown(folder.path());
        assert_eq!(names.len(), 3);
        assert_eq!(
            passed_by.split(" (as").next(),
            Some("passed by 2 entries: 2 devices or pipes")
        );
    }

    #[test]
    fn names_that_are_not_utf8_stay_apart() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"\xca\xd0"[..], b"\xca\xd1"] {
            let class = folder.path().join(OsStr::from_bytes(name));
            // Some file systems have no such names.
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
        let (names, passed_by) = shown(folder.path());
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
        if !is_superuser {
            assert_eq!(names, ["3", "a/1"]);
            assert_eq!(passed_by, "passed by 1 entry: 1 unreadable (b)");
        }
    }
}
