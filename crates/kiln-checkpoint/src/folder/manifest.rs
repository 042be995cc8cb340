//! The hidden list of what kiln wrote into a folder, with digests: a folder that holds just that may be replaced.
//!
//! It is in the format of `sha256sum`, so `sha256sum -c .kiln-files` checks a model, too. Models of kiln 0.1.0 have no list
//! and are known by their weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kiln_data::sha256_of_file;
use serde_json::Value;

use crate::layout::WEIGHTS;

/// The list. Hidden files are passed over by `push` and by diffusers.
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

/// Lists what is in `folder`.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    let mut list = String::new();
    for file in Found::in_folder(folder)?.files {
        list += &format!("{}  {file}\n", sha256_of_file(&folder.join(&file))?);
    }
    let mut file = File::create(folder.join(LIST))?;
    file.write_all(list.as_bytes())?;
    file.sync_all()
}

/// Whether all that is in `folder` is as kiln wrote it. If not, what a sentence about the folder says of it.
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

/// How a folder differs from the list of what kiln wrote there. Files that others have added do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Names of files that are gone, with `/` between folders.
    pub missing: Vec<String>,
    /// Names of files that are no longer what was written.
    pub changed: Vec<String>,
}

/// Compares a folder with the list of what kiln wrote there; none if it has no list, as models of others have none.
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

/// Without a list a folder is kiln's if it holds nothing that kiln 0.1.0 did not write, and kiln is named in all weights.
fn check_earlier(folder: &Path, found: &Found) -> Result<(), String> {
    found.is_within(EARLIER_FILES.into_iter())?;
    let weights = found.files.iter().filter(|file| file.ends_with(WEIGHTS));
    let mut weights = weights.map(|file| names_kiln(&folder.join(file)).unwrap_or(false));
    // `all` alone would be content with a folder of configs.
    match weights.next().is_some_and(|first| first) && weights.all(|it| it) {
        true => Ok(()),
        false => Err("holds a model that kiln did not write".to_owned()),
    }
}

/// Whether the header of a safetensors file has facts of kiln's.
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

/// What is in a folder and its subfolders, but for the list: names with `/` between folders.
#[derive(Default)]
struct Found {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// Links, devices, and names that are no text: never kiln's.
    others: BTreeSet<String>,
}

impl Found {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        found.add(folder, "")?;
        Ok(found)
    }

    /// Adds what is in `folder`, which is itself called `prefix`.
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

    /// Whether there is nothing but these files and the folders that they lie in.
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
