//! The hidden list of the files that kiln wrote into a folder, with digests: a folder with exactly these files may be
//! replaced.
//!
//! It is in the format of `sha256sum`, so `sha256sum -c .kiln-files` checks a model, too. Models of kiln 0.1.0 have no
//! list; their weights identify them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kiln_data::sha256_of_file;
use serde_json::Value;

use crate::layout::WEIGHTS;

/// The list. `push` and diffusers ignore hidden files.
pub(super) const LIST: &str = ".kiln-files";
/// Largest list that is read, in bytes. Real ones have about a thousand.
const LARGEST_LIST: u64 = 1 << 20;
/// Largest header of weights that is read, in bytes.
const LARGEST_HEADER: u64 = 16 << 20;

/// All files that kiln 0.1.0 wrote into the folder of a model or a first stage.
const EARLIER_FILES: [&str; 11] = [
    "model_index.json",
    "config.json",
    WEIGHTS,
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vqvae/config.json",
    "vqvae/diffusion_pytorch_model.safetensors",
    "guide/config.json",
    "guide/diffusion_pytorch_model.safetensors",
    "guide/guidance.json",
];

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
        return check_earlier(folder, &found);
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

/// A folder without a list is kiln's if it contains only files that kiln 0.1.0 wrote, and all weights name kiln.
fn check_earlier(folder: &Path, found: &Found) -> Result<(), String> {
    found.is_within(EARLIER_FILES.into_iter())?;
    let weights = found.files.iter().filter(|file| file.ends_with(WEIGHTS));
    let mut weights = weights.map(|file| names_kiln(&folder.join(file)).unwrap_or(false));
    // `all` alone would accept a folder of configs.
    match weights.next().is_some_and(|first| first) && weights.all(|it| it) {
        true => Ok(()),
        false => Err("holds a model that kiln did not write".to_owned()),
    }
}

/// Whether the header of a safetensors file has kiln's keys.
fn names_kiln(weights: &Path) -> io::Result<bool> {
    let mut file = File::open(weights)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    let length = u64::from_le_bytes(length).min(LARGEST_HEADER);
    file.take(length).read_to_end(&mut header)?;
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    let facts = header["__metadata__"].as_object();
    Ok(facts.is_some_and(|facts| facts.keys().any(|name| name.starts_with("kiln."))))
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
