//! Any folder, zip or tar of images: a folder per class gives labels, `train/` and `validation/` give the splits.

use std::collections::BTreeSet;
use std::path::Path;

use crate::contents::{Entry, list};
use crate::error::DataError;
use crate::loading::{Found, Item, Picture};
use crate::order::shuffled;

/// Endings of the files that are taken for images; their content decides what they are.
const IMAGE_EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];
const TRAIN: &str = "train";
/// The folders that can hold the validation set, the first one there is.
const VALIDATION: [&str; 4] = ["validation", "valid", "val", "test"];

/// Images sorted by split and class.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) class_names: Vec<String>,
    pub(crate) train: Vec<Item>,
    /// None where there are no folders for the splits: everything is in `train` then.
    pub(crate) validation: Option<Vec<Item>>,
}

/// Finds the images at `path`, holding out `validation_fraction` of them if they are not split already.
pub(crate) fn find(path: &Path, validation_fraction: f32) -> Result<Found, DataError> {
    let Layout {
        class_names,
        train,
        validation,
    } = arrange(list(path)?);
    let (train, validation) = match validation {
        Some(validation) => (train, validation),
        None => hold_out(train, validation_fraction),
    };
    let name = path
        .file_stem()
        .map_or("folder".into(), |name| name.to_string_lossy());
    Ok(Found {
        path: path.to_owned(),
        name: name.into_owned(),
        class_names,
        border: 0,
        train,
        validation,
    })
}

/// Moves a share of the images, drawn at random but the same every time, into a validation set: at least one, and not
/// all. The order stays.
fn hold_out(images: Vec<Item>, share: f32) -> (Vec<Item>, Vec<Item>) {
    let wanted = (images.len() as f64 * f64::from(share)).round() as usize;
    let wanted = wanted.max(1).min(images.len().saturating_sub(1));
    let held_out: BTreeSet<u32> = shuffled(images.len(), 0, 0)
        .into_iter()
        .take(wanted)
        .collect();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (index, image) in (0..).zip(images) {
        if held_out.contains(&index) {
            &mut validation
        } else {
            &mut train
        }
        .push(image);
    }
    (train, validation)
}

/// Sorts the images among the entries by split and class.
///
/// Folders that hold everything (an archive often starts with one) are passed by. Every image in a subfolder: the
/// subfolders' names are the classes. Some image outside of them: there are no labels.
pub(crate) fn arrange(entries: Vec<Entry>) -> Layout {
    let mut entries: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| is_image(entry.file_name()))
        .collect();
    let mut depth = common_folders(&entries);
    let first_folder = |entry: &Entry| folders(entry).nth(depth).map(str::to_lowercase);
    let top: BTreeSet<String> = entries.iter().filter_map(first_folder).collect();
    let split = VALIDATION
        .into_iter()
        .find(|name| top.contains(*name) && top.contains(TRAIN));
    let mut held_out = Vec::new();
    if let Some(validation) = split {
        let all = entries.len();
        let is_in = |entry: &Entry, split: &str| first_folder(entry).as_deref() == Some(split);
        held_out = entries
            .extract_if(.., |entry| is_in(entry, validation))
            .collect();
        entries.retain(|entry| is_in(entry, TRAIN));
        let others = all - entries.len() - held_out.len();
        if others > 0 {
            tracing::warn!(
                "left out {others} images that are neither in {TRAIN}/ nor in {validation}/"
            );
        }
        depth += 1;
    }

    let class = |entry: &Entry| folders(entry).nth(depth).map(str::to_owned);
    let every_class: Option<BTreeSet<String>> =
        entries.iter().chain(&held_out).map(class).collect();
    let class_names: Vec<String> = every_class.unwrap_or_default().into_iter().collect();
    let item = |entry: Entry| {
        let label = class(&entry).and_then(|name| class_names.binary_search(&name).ok());
        let picture = Picture::Encoded {
            name: entry.name,
            content: entry.content,
        };
        Item {
            label: label.map(|label| label as u32),
            picture,
        }
    };
    let train = entries.into_iter().map(item).collect();
    let validation = split.map(|_| held_out.into_iter().map(item).collect());
    Layout {
        class_names,
        train,
        validation,
    }
}

/// The folders above a file, from the outermost.
fn folders(entry: &Entry) -> impl Iterator<Item = &str> {
    let folder = entry.name.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder.split('/').filter(|part| !part.is_empty())
}

/// How many folders are shared by all entries.
fn common_folders(entries: &[Entry]) -> usize {
    let Some((first, others)) = entries.split_first() else {
        return 0;
    };
    let shared = |entry: &Entry| {
        folders(first)
            .zip(folders(entry))
            .take_while(|(mine, other)| mine == other)
            .count()
    };
    others
        .iter()
        .map(shared)
        .min()
        .unwrap_or_else(|| folders(first).count())
}

fn is_image(file_name: &str) -> bool {
    file_name.rsplit_once('.').is_some_and(|(_, extension)| {
        IMAGE_EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}
