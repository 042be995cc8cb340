//! The hidden list of the files that kiln wrote into a folder, with digests: a folder with exactly these files may be
//! replaced.
//!
//! It is in the format of `sha256sum`, so `sha256sum -c .kiln-files` checks a model, too. A folder without a list is never
//! replaced: it may have been copied without hidden files, and changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kiln_data::sha256_of_file;
/// The list. `push` and diffusers ignore hidden files.
pub(super) const LIST: &str = ".kiln-files";
/// Largest list that is read, in bytes. Real ones have about a thousand.
const LARGEST_LIST: u64 = 1 << 20;

/// Writes the list of the files in `folder`.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    let mut list = String::new();
    for file in Found::in_folder(folder)?.files {
        list += &format!("{}  {file}\n", sha256_of_file(&folder.join(&file))?);
    }
    let mut file = File::create(folder.join(LIST))?;
    file.write_all(list.as_bytes())?;
    file.sync_all()
}

/// Checks that everything in `folder` is as kiln wrote it. The error is the part of a sentence after the folder's name.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    let unreadable = |problem: io::Error| format!("cannot be looked through ({problem})");
    let found = Found::in_folder(folder).map_err(unreadable)?;
    if found.is_nothing() {
        return Ok(());
    }
    let Some(listed) = read(folder).map_err(unreadable)? else {
        let something = [&found.files, &found.others, &found.folders];
        let mut something = something.into_iter().flatten();
        let something = something.next().map_or("", String::as_str);
        return Err(format!(
            "holds {something:?}, which kiln did not write: {LIST}, its list of files, is not there"
        ));
    };
    found.is_within(listed.keys().map(String::as_str))?;
    for file in &found.files {
        let digest = sha256_of_file(&folder.join(file)).map_err(unreadable)?;
        if listed.get(file) != Some(&digest) {
            return Err(format!(
                "holds {file:?}, which was changed after kiln wrote it"
            ));
        }
    }
    Ok(())
}

/// The differences between a folder and the list of the files that kiln wrote there. Added files do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Names of files that are gone, with `/` between folders.
    pub missing: Vec<String>,
    /// Names of files that have changed since they were written.
    pub changed: Vec<String>,
}

/// Compares a folder with the list of the files that kiln wrote there; `None` if it has no list, like models from
/// elsewhere.
///
/// # Errors
/// Those of the system.
pub fn differences(folder: &Path) -> io::Result<Option<Differences>> {
    let Some(listed) = read(folder)? else {
        return Ok(None);
    };
    let found = Found::in_folder(folder)?;
    let mut differences = Differences::default();
    for (file, digest) in listed {
        if found.files.contains(&file) && sha256_of_file(&folder.join(&file))? == digest {
            continue;
        }
        match found.files.contains(&file) || found.others.contains(&file) {
            true => differences.changed.push(file),
            false => differences.missing.push(file),
        }
    }
    Ok(Some(differences))
}

/// The digests of the listed files, if there is a list.
fn read(folder: &Path) -> io::Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(LIST);
    if !fs::symlink_metadata(&path).is_ok_and(|list| list.is_file()) {
        return Ok(None);
    }
    let mut list = String::new();
    File::open(path)?
        .take(LARGEST_LIST)
        .read_to_string(&mut list)?;
    let lines = list.lines().filter_map(|line| line.split_once("  "));
    let listed = lines.map(|(digest, file)| (file.to_owned(), digest.to_owned()));
    Ok(Some(listed.collect()))
}

/// The content of a folder and its subfolders, without the list: names with `/` between folders.
#[derive(Default)]
struct Found {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// Links, devices, and names that are not text: never kiln's.
    others: BTreeSet<String>,
}

impl Found {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        found.add(folder, "")?;
        Ok(found)
    }

    /// Adds the content of `folder`, whose own name is `prefix`.
    fn add(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let full = format!("{prefix}{}", name.to_string_lossy());
            let kind = entry.file_type()?;
            if full == LIST && kind.is_file() {
                continue;
            }
            if name.to_str().is_none() {
                self.others.insert(full);
            } else if kind.is_file() {
                self.files.insert(full);
            } else if kind.is_dir() {
                self.add(&entry.path(), &format!("{full}/"))?;
                self.folders.insert(full);
            } else {
                self.others.insert(full);
            }
        }
        Ok(())
    }

    fn is_nothing(&self) -> bool {
        self.files.is_empty() && self.folders.is_empty() && self.others.is_empty()
    }

    /// Whether there are only these files and their folders.
    fn is_within<'a>(&self, files: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
        let is_file = |name: &&String| files.clone().any(|file| file == *name);
        let is_folder = |name: &&String| {
            let within = format!("{name}/");
            files.clone().any(|file| file.starts_with(&within))
        };
        let mut foreign = self.others.iter().collect::<Vec<_>>();
        foreign.extend(self.files.iter().filter(|name| !is_file(name)));
        foreign.extend(self.folders.iter().filter(|name| !is_folder(name)));
        match foreign.iter().min() {
            None => Ok(()),
            Some(name) => Err(format!("holds {name:?}, which kiln did not write")),
        }
    }
}
