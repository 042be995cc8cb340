//! Any folder, zip or tar of images: a folder per class gives labels, `train/` and `validation/` give the splits.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use crate::contents::{Entry, Listing, Skipped, Why};
use crate::error::DataError;
use crate::item::{Item, Picture};
use crate::kind::{Kind, is_named_like_an_image};
use crate::loading::Found;
use crate::names;
use crate::order::{held_out, shuffled};
use crate::split_names::{self, TRAIN, VALIDATION, is_split};

/// Images sorted by split and class.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) class_names: Vec<String>,
    pub(crate) train: Vec<Item>,
    /// `None` if there are no folders for the splits: everything is in `train` then.
    pub(crate) validation: Option<Vec<Item>>,
}

/// Finds the images at `path`, and holds out `validation_fraction` of them if there are no splits.
#[cfg(test)]
pub(crate) fn find(path: &Path, validation_fraction: f32) -> Result<Found, DataError> {
    find_in(path, crate::contents::list(path)?, validation_fraction)
}

/// Finds the images in the listing of `path`, and holds out `validation_fraction` of them if there are no splits.
pub(crate) fn find_in(
    path: &Path,
    listing: Listing,
    validation_fraction: f32,
) -> Result<Found, DataError> {
    let Listing {
        entries,
        mut skipped,
    } = listing;
    let Layout {
        class_names,
        train,
        validation,
    } = arrange(entries, &mut skipped);
    let (train, validation) = match validation {
        Some(validation) => (train, validation),
        None => hold_out(train, validation_fraction),
    };
    let name = path.file_stem().map_or("folder".into(), |name| {
        names::from_bytes(name.as_encoded_bytes())
    });
    Ok(Found {
        path: path.to_owned(),
        name,
        class_names,
        border: 0,
        train,
        validation,
        skipped,
    })
}

/// Moves a random share of the images, the same every time, into a validation set: at least one, and not all. The order
/// stays.
pub(crate) fn hold_out(images: Vec<Item>, share: f32) -> (Vec<Item>, Vec<Item>) {
    let wanted = held_out(images.len(), share);
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

/// Sorts the images among the entries by split and class, and counts the others as skipped.
///
/// Folders that contain everything (an archive often starts with one) do not count. The subfolders' names are the
/// classes; an image outside of them has no class.
pub(crate) fn arrange(entries: Vec<Entry>, skipped: &mut Skipped) -> Layout {
    let mut entries = images(entries, skipped);
    let mut depth = common_folders(&entries);
    let outside = depth;
    let first_folder = |entry: &Entry| entry.folders().nth(outside).map(str::to_lowercase);
    let top: BTreeSet<String> = entries.iter().filter_map(first_folder).collect();
    let has_training = TRAIN.into_iter().any(|name| top.contains(name));
    let split = VALIDATION
        .into_iter()
        .find(|name| has_training && top.contains(*name));
    if split.is_none() {
        let are_all_in = |entry: &Entry| first_folder(entry).is_some();
        let are_splits = top.iter().all(|name| is_split(name));
        if are_splits && !top.is_empty() && entries.iter().all(are_all_in) {
            // Either one split is written in two ways, or there is no training split. The names are not classes in
            // either case.
            if !has_training {
                tracing::warn!(
                    "there is no folder train: the images of {} are taken together, and a share of them is held out",
                    in_words(&top)
                );
            }
            depth += 1;
        }
    }
    let mut held_out = Vec::new();
    if let Some(validation) = split {
        let all = entries.len();
        let is_in = |entry: &Entry, splits: &[&str]| {
            first_folder(entry).is_some_and(|folder| splits.contains(&folder.as_str()))
        };
        held_out = entries
            .extract_if(.., |entry| is_in(entry, &[validation]))
            .collect();
        entries.retain(|entry| is_in(entry, &TRAIN));
        let others = all - entries.len() - held_out.len();
        if others > 0 {
            tracing::warn!(
                "left out {others} images that are neither for training nor in {validation}/"
            );
        }
        depth += 1;
    }

    for warning in split_names::mistaken(entries.iter().chain(&held_out), outside, depth) {
        tracing::warn!("{warning}");
    }
    let class = |entry: &Entry| entry.folders().nth(depth).map(str::to_owned);
    let every_class: BTreeSet<String> = entries.iter().chain(&held_out).filter_map(class).collect();
    let class_names: Vec<String> = every_class.into_iter().collect();
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

/// `test/ and val/`
fn in_words(folders: &BTreeSet<String>) -> String {
    let folders: Vec<String> = folders.iter().map(|name| format!("{name}/")).collect();
    folders.join(" and ")
}

/// The images among the entries: by extension, or else by content.
fn images(entries: Vec<Entry>, skipped: &mut Skipped) -> Vec<Entry> {
    let reasons: Vec<Option<Why>> = entries.par_iter().map(why_no_image).collect();
    let mut images = Vec::with_capacity(entries.len());
    for (entry, reason) in entries.into_iter().zip(reasons) {
        match reason {
            Some(why) => skipped.add(why, &entry.name),
            None => images.push(entry),
        }
    }
    images
}

fn why_no_image(entry: &Entry) -> Option<Why> {
    if is_named_like_an_image(entry.file_name()) {
        return None;
    }
    match entry.content.kind() {
        Ok(Kind::Image(_)) => None,
        Ok(Kind::OtherImage(name)) => Some(Why::Format(name)),
        Ok(Kind::Pointer) => Some(Why::Pointer),
        Ok(Kind::Zip | Kind::Gzip | Kind::Tar | Kind::Packed(_)) => Some(Why::Archive),
        Ok(Kind::Parquet | Kind::EncryptedParquet) => Some(Why::Table),
        Ok(Kind::Empty | Kind::Html | Kind::Other) => Some(Why::NoImage),
        Err(_) => Some(Why::Unreadable),
    }
}

/// How many folders all entries share.
fn common_folders(entries: &[Entry]) -> usize {
    let Some((first, others)) = entries.split_first() else {
        return 0;
    };
    let shared = |entry: &Entry| {
        first
            .folders()
            .zip(entry.folders())
            .take_while(|(mine, other)| mine == other)
            .count()
    };
    others
        .iter()
        .map(shared)
        .min()
        .unwrap_or_else(|| first.folders().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Content;
    use crate::examples::{self, Files};
    use proptest::prelude::*;

    fn arranged(names: &[&str]) -> Layout {
        let nothing = Content::holding(b"");
        let entry = |name: &&str| Entry {
            name: (*name).to_owned(),
            content: nothing.clone(),
        };
        arrange(names.iter().map(entry).collect(), &mut Skipped::default())
    }

    fn shown(items: &[Item]) -> Vec<(String, Option<u32>)> {
        items.iter().map(|item| (item.name(), item.label)).collect()
    }

    fn labelled(name: &str, label: u32) -> (String, Option<u32>) {
        (name.to_owned(), Some(label))
    }

    #[test]
    fn a_folder_per_class_gives_labels() {
        let layout = arranged(&["cat/a.png", "cat/old/b.JPG", "dog/c.webp", "dog/notes.txt"]);
        assert_eq!(layout.class_names, ["cat", "dog"]);
        let expected = [
            labelled("cat/a.png", 0),
            labelled("cat/old/b.JPG", 0),
            labelled("dog/c.webp", 1),
        ];
        assert_eq!(shown(&layout.train), expected);
        assert!(layout.validation.is_none());
    }

    #[test]
    fn images_outside_of_the_classes_have_no_label() {
        let layout = arranged(&["a.gif", "cat/b.bmp"]);
        let expected = [("a.gif".to_owned(), None), labelled("cat/b.bmp", 0)];
        assert_eq!(shown(&layout.train), expected);
    }

    #[test]
    fn one_stray_image_is_named_and_takes_the_labels_from_all() {
        let mut files = examples::classes(&["cat", "dog"], 5);
        files.add("preview.png", examples::png(3));
        let folder = files.folder();
        let config = crate::DataConfig {
            path: Some(folder.path().to_owned()),
            ..crate::DataConfig::new(crate::DatasetKind::Folder, 8, 1)
        };
        let datasets = crate::open(&config, &crate::NoProgress).unwrap();
        for set in [&datasets.train, &datasets.validation] {
            assert!(!set.has_labels() && set.class_names().is_empty());
            let sentence = set.unlabelled().unwrap();
            assert!(sentence.starts_with("1 of 11 images of "), "{sentence}");
            assert!(
                sentence.ends_with("has no class (the first is preview.png)"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn images_are_known_by_their_content_and_others_counted() {
        let mut files = Files::default();
        let jpeg = examples::encode(image::ImageFormat::Jpeg, 9, 9);
        for name in ["a.jfif", "b.JPE", "c", "d.jpg~", "e.jpg?w=200", "f.png"] {
            files.add(name, jpeg.clone());
        }
        files.add("g.tif", examples::encode(image::ImageFormat::Tiff, 9, 9));
        files.add("h.ppm", examples::encode(image::ImageFormat::Pnm, 9, 9));
        files.add("i.heic", b"\0\0\0\x20ftypheic".to_vec());
        files.add("j.txt", b"notes".to_vec());
        files.add("k.zip", b"PK\x03\x04".to_vec());
        let folder = files.folder();
        let found = find(folder.path(), 0.1).unwrap();
        assert_eq!(found.train.len() + found.validation.len(), 8);
        assert_eq!(
            found.skipped.to_string(),
            "skipped 3 entries: 1 archive within (k.zip), 1 HEIC image, which kiln does not read (i.heic), 1 not an image (j.txt)"
        );
    }

    #[test]
    fn folders_that_hold_everything_are_skipped() {
        let layout = arranged(&["all/of/it/cat/a.png", "all/of/it/dog/b.png"]);
        assert_eq!(layout.class_names, ["cat", "dog"]);
        assert!(
            arranged(&["pictures/a.png", "pictures/b.png"])
                .class_names
                .is_empty()
        );
        assert!(arranged(&["pictures/a.png"]).class_names.is_empty());
    }

    #[test]
    fn split_folders_are_the_splits() {
        for (train, split) in VALIDATION
            .iter()
            .flat_map(|split| [("Train", split), ("training", split)])
        {
            let other = format!("data/{split}/dog/b.png");
            let [cat, dog] =
                ["cat/a.png", "dog/c.png"].map(|image| format!("data/{train}/{image}"));
            let layout = arranged(&[&cat, &dog, &other, "data/extra/x.png"]);
            assert_eq!(layout.class_names, ["cat", "dog"]);
            assert_eq!(shown(&layout.train), [labelled(&cat, 0), labelled(&dog, 1)]);
            assert_eq!(shown(&layout.validation.unwrap()), [labelled(&other, 1)]);
        }
    }

    #[test]
    fn validation_comes_before_test() {
        let layout = arranged(&["test/a.png", "train/b.png", "validation/c.png"]);
        assert_eq!(
            shown(&layout.validation.unwrap()),
            [("validation/c.png".to_owned(), None)]
        );
        assert_eq!(layout.train.len(), 1);
    }

    #[test]
    fn train_alone_is_not_a_split() {
        let layout = arranged(&["train/cat/a.png", "train/dog/b.png"]);
        assert_eq!(layout.class_names, ["cat", "dog"]);
        assert!(layout.validation.is_none());
        let layout = arranged(&["train/a.png", "tram/b.png"]);
        assert_eq!(layout.class_names, ["train", "tram"]);
    }

    #[test]
    fn names_of_splits_never_become_classes_of_their_own() {
        // A split that is written in two ways, or with other capitals.
        let layout = arranged(&["TRAIN/cat/a.png", "train/dog/b.png", "Training/cat/c.png"]);
        assert_eq!(layout.class_names, ["cat", "dog"]);
        assert!(layout.validation.is_none());
        let layout = arranged(&[
            "TRAIN/cat/a.png",
            "train/dog/b.png",
            "VAL/cat/c.png",
            "Val/dog/d.png",
        ]);
        assert_eq!(layout.class_names, ["cat", "dog"]);
        assert_eq!(layout.train.len(), 2);
        let held_out = [labelled("VAL/cat/c.png", 0), labelled("Val/dog/d.png", 1)];
        assert_eq!(shown(&layout.validation.unwrap()), held_out);
        // No training split.
        for splits in [["Test", "VAL"], ["test", "TEST"], ["dev", "evaluation"]] {
            let names = splits.map(|split| format!("data/{split}/cat/{split}.png"));
            let layout = arranged(&names.each_ref().map(String::as_str));
            assert_eq!(layout.class_names, ["cat"]);
            assert!(layout.train.len() == 2 && layout.validation.is_none());
        }
        let layout = arranged(&["Test/a.png", "VAL/b.png"]);
        assert!(layout.class_names.is_empty());
        // Beside other folders or images, they count like these.
        let layout = arranged(&["test/a.png", "control/b.png"]);
        assert_eq!(layout.class_names, ["control", "test"]);
        assert_eq!(arranged(&["test/a.png", "b.png"]).class_names, ["test"]);
    }

    #[test]
    fn a_zip_gives_what_its_folder_gives() {
        let mut files = examples::classes(&["train/cat", "train/dog", "val/cat", "val/dog"], 3);
        files.add("train/cat/readme.txt", b"not an image".to_vec());
        let folder = files.folder();
        let from_folder = find(folder.path(), 0.1).unwrap();
        let zip = folder.path().join("pets.zip");
        std::fs::write(&zip, files.zip()).unwrap();
        let from_zip = find(&zip, 0.1).unwrap();
        assert_eq!(from_zip.name, "pets");
        assert_eq!(from_zip.class_names, from_folder.class_names);
        assert_eq!(shown(&from_zip.train), shown(&from_folder.train));
        assert_eq!(shown(&from_zip.validation), shown(&from_folder.validation));
        assert_eq!((from_zip.train.len(), from_zip.validation.len()), (6, 6));
    }

    #[test]
    fn a_folder_of_other_files_has_no_images() {
        let mut files = Files::default();
        files.add("a.txt", Vec::new());
        let found = find(files.folder().path(), 0.5).unwrap();
        assert!(found.train.is_empty() && found.validation.is_empty());
    }

    proptest! {
        #[test]
        fn holding_out_keeps_every_image_once_and_repeats(count in 0usize..200, share in 0.001f32..0.999) {
            let names: Vec<String> = (0..count).map(|index| format!("{index:03}.png")).collect();
            let items = || arranged(&names.iter().map(String::as_str).collect::<Vec<_>>()).train;
            let (train, validation) = hold_out(items(), share);
            let mut all = [shown(&train), shown(&validation)].concat();
            all.sort();
            prop_assert_eq!(all, shown(&items()));
            prop_assert_eq!(count > 0, !train.is_empty());
            prop_assert_eq!(count > 1, !validation.is_empty());
            let expected = count as f32 * share;
            prop_assert!(count < 2 || (validation.len() as f32 - expected).abs() <= 1.0);
            prop_assert_eq!(shown(&hold_out(items(), share).1), shown(&validation));
        }

        #[test]
        fn any_names_can_be_arranged(names in prop::collection::vec("(train/|val/|a/|b/){0,3}[a-c]\\.(png|txt)", 0..12)) {
            let layout = arranged(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let classes = layout.class_names.len() as u32;
            for item in layout.train.iter().chain(layout.validation.iter().flatten()) {
                prop_assert!(item.label.is_none_or(|label| label < classes));
            }
        }
    }
}
