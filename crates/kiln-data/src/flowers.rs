//! Oxford Flowers 102: M.-E. Nilsback and A. Zisserman, "Automated flower classification over a large number of
//! classes", 2008.
//!
//! `102flowers.tgz` (or its unpacked `jpg/`) holds `image_00001.jpg` to `image_08189.jpg`; `imagelabels.mat` has the
//! class of each, and `setid.mat` the numbers of three official splits.

use std::collections::BTreeMap;
use std::path::Path;

use crate::contents::{Content, Entry, Skipped, list};
use crate::error::DataError;
use crate::item::{Item, Picture};
use crate::loading::Found;
use crate::mat;
use crate::order::shuffled;

const ARCHIVE: &str = "102flowers.tgz";
const LABELS: &str = "imagelabels.mat";
const SPLITS: &str = "setid.mat";
/// The names in `setid.mat` of the official training, validation and test split.
const OFFICIAL_SPLITS: [&str; 3] = ["trnid", "valid", "tstid"];

/// The classes in the order of their labels.
#[rustfmt::skip]
const CLASS_NAMES: [&str; 102] = [
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea",
    "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
];

/// Whether the images are among the files at `path`, and the labels and splits among them or beside it.
pub(crate) fn is_at(path: &Path, entries: &[Entry]) -> bool {
    let is_image = |name: &str| name == ARCHIVE || image_number(name) == Some(1);
    entries.iter().any(|entry| is_image(entry.file_name()))
        && [LABELS, SPLITS]
            .iter()
            .all(|name| find_mat(path, entries, name).is_ok())
}

/// Finds the images, labels and splits in a zip, in a folder, or in `102flowers.tgz` or `jpg/` with the two `.mat`
/// files beside it.
pub(crate) fn find(path: &Path) -> Result<Found, DataError> {
    let mut entries = list(path)?.entries;
    if let Some(archive) = entries.iter().find(|entry| entry.file_name() == ARCHIVE)
        && let Content::File(archive) = &archive.content
    {
        let unpacked = list(archive)?.entries;
        entries.extend(unpacked);
    }
    let labels_file = find_mat(path, &entries, LABELS)?;
    let splits_file = find_mat(path, &entries, SPLITS)?;
    let labels = read_mat(path, &labels_file, "labels")?;
    let mut images: BTreeMap<u32, Entry> = entries
        .into_iter()
        .filter_map(|entry| Some((image_number(entry.file_name())?, entry)))
        .collect();
    let mut item = |number: u32| {
        let label = labels.get((number as usize).wrapping_sub(1));
        let label = label.filter(|&&label| (1..=CLASS_NAMES.len() as u32).contains(&label));
        let (Some(entry), Some(label)) = (images.remove(&number), label) else {
            let expected =
                format!("all of Flowers 102 (image_{number:05}.jpg or its label is missing)");
            return Err(DataError::Unexpected {
                path: path.to_owned(),
                expected,
            });
        };
        let picture = Picture::Encoded {
            name: entry.name,
            content: entry.content,
        };
        Ok(Item {
            label: Some(label - 1),
            picture,
        })
    };

    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (which, split) in OFFICIAL_SPLITS.into_iter().enumerate() {
        let (shown, held_out) = divide(&read_mat(path, &splits_file, split)?, which);
        for number in shown {
            train.push(item(number)?);
        }
        for number in held_out {
            validation.push(item(number)?);
        }
    }
    Ok(Found {
        path: path.to_owned(),
        name: "flowers-102".to_owned(),
        class_names: CLASS_NAMES.map(str::to_owned).to_vec(),
        border: 0,
        train,
        validation,
        // All of its images are known by name; a missing one is an error.
        skipped: Skipped::default(),
    })
}

/// 80% of an official split, rounded up, to train on, and the rest.
///
/// The choice is random, but the same every time: the official splits list one class after the other, so their last
/// fifth would be classes that training never saw.
fn divide(split: &[u32], which: usize) -> (Vec<u32>, Vec<u32>) {
    let order = shuffled(split.len(), 0, which);
    let mut numbers: Vec<u32> = order
        .iter()
        .filter_map(|&place| split.get(place as usize).copied())
        .collect();
    let held_out = numbers.split_off((4 * split.len()).div_ceil(5));
    (numbers, held_out)
}

/// 17 of `image_00017.jpg`.
fn image_number(file_name: &str) -> Option<u32> {
    file_name
        .strip_prefix("image_")?
        .strip_suffix(".jpg")?
        .parse()
        .ok()
}

/// A `.mat` file among the entries, or else beside the path.
fn find_mat(path: &Path, entries: &[Entry], file_name: &str) -> Result<Entry, DataError> {
    if let Some(entry) = entries.iter().find(|entry| entry.file_name() == file_name) {
        return Ok(entry.clone());
    }
    let beside = path.with_file_name(file_name);
    if beside.is_file() {
        return Ok(Entry {
            name: file_name.to_owned(),
            content: Content::File(beside),
        });
    }
    Err(DataError::Unexpected {
        path: path.to_owned(),
        expected: format!(
            "Flowers 102 ({ARCHIVE}, jpg/, or a folder or zip of them; {file_name} is neither in it nor beside it)"
        ),
    })
}

fn read_mat(path: &Path, file: &Entry, name: &str) -> Result<Vec<u32>, DataError> {
    let bytes = file
        .content
        .read()
        .map_err(|error| DataError::reading(path, error))?;
    DataError::refuse_foreign(&path.join(&file.name), &bytes)?;
    mat::read_vector(&bytes, name).map_err(|reason| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("of {} {reason}", file.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{self, Files, gzip};
    use crate::{DataConfig, DatasetKind, Datasets, NoProgress};

    /// A MATLAB 5 file with one row of 16-bit numbers per name.
    fn mat_file(vectors: &[(&str, Vec<u16>)]) -> Vec<u8> {
        let mut file = vec![b' '; 124];
        file.extend([0, 1, b'I', b'M']);
        for (name, values) in vectors {
            let mut matrix = Vec::new();
            let mut add = |kind: u32, bytes: &[u8]| {
                matrix.extend(kind.to_le_bytes());
                matrix.extend((bytes.len() as u32).to_le_bytes());
                matrix.extend(bytes);
                matrix.resize(matrix.len().next_multiple_of(8), 0);
            };
            add(6, &[11, 0, 0, 0, 0, 0, 0, 0]);
            add(
                5,
                &[[1, 0, 0, 0], (values.len() as u32).to_le_bytes()].concat(),
            );
            add(1, name.as_bytes());
            add(
                4,
                &values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect::<Vec<_>>(),
            );
            file.extend(14u32.to_le_bytes());
            file.extend((matrix.len() as u32).to_le_bytes());
            file.extend(matrix);
        }
        file
    }

    /// Twenty flowers: 5 and 5 and 10 in the official splits, image N of class N and gray N.
    fn small_flowers() -> (Files, Files) {
        let mut images = Files::default();
        for number in 1..=20 {
            images.add(&format!("jpg/image_{number:05}.jpg"), examples::png(number));
        }
        let mut tables = Files::default();
        tables.add(LABELS, mat_file(&[("labels", (1..=20).collect())]));
        let splits = [
            ("trnid", (1..=5).collect()),
            ("valid", (6..=10).collect()),
            ("tstid", (11..=20).collect()),
        ];
        tables.add(SPLITS, mat_file(&splits));
        (images, tables)
    }

    fn together(one: &Files, other: &Files) -> Files {
        let mut all = one.clone();
        for (name, bytes) in other.iter() {
            all.add(name, bytes.to_vec());
        }
        all
    }

    fn open(path: &Path) -> Result<Datasets, DataError> {
        let path = Some(path.to_owned());
        crate::open(
            &DataConfig {
                path,
                ..DataConfig::new(DatasetKind::Flowers102, 8, 3)
            },
            &NoProgress,
        )
    }

    #[test]
    fn every_form_gives_the_same_images() {
        let (images, tables) = small_flowers();
        let folder = together(&images, &tables).folder();
        let expected = open(folder.path()).unwrap();
        assert_eq!((expected.train.len(), expected.validation.len()), (16, 4));
        assert_eq!(expected.train.class_names().len(), 102);
        for set in [&expected.train, &expected.validation] {
            for index in 0..set.len() {
                // Image N is of gray N and class N - 1.
                let gray = ((set.image(index, false).unwrap()[0] + 1.0) * 127.5).round() as usize;
                assert_eq!(set.label(index), Some(gray - 1));
            }
        }

        let zip = folder.path().join("flowers.zip");
        std::fs::write(&zip, together(&images, &tables).zip()).unwrap();
        let packed = tables.folder();
        let archive = packed.path().join(ARCHIVE);
        std::fs::write(&archive, gzip(&images.tar())).unwrap();
        for path in [&folder.path().join("jpg"), &zip, &archive, packed.path()] {
            let again = open(path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                again.train.fingerprint(),
                expected.train.fingerprint(),
                "{}",
                path.display()
            );
            assert_eq!(
                again.validation.fingerprint(),
                expected.validation.fingerprint()
            );
        }
    }

    #[test]
    fn each_split_gives_four_fifths_without_order() {
        let (train, validation) = divide(&(1..=1020).collect::<Vec<_>>(), 0);
        assert_eq!((train.len(), validation.len()), (816, 204));
        assert_eq!(divide(&[7; 6149], 2).0.len(), 4920);
        assert!(
            validation.iter().any(|&number| number < 510)
                && validation.iter().any(|&number| number > 510)
        );
        let mut all = [train, validation].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=1020).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_missing_is_named() {
        let (mut images, tables) = small_flowers();
        let error = open(images.folder().path()).unwrap_err().to_string();
        assert!(
            error.contains("imagelabels.mat is neither in it nor beside it"),
            "{error}"
        );
        images.remove("jpg/image_00007.jpg");
        let error = open(together(&images, &tables).folder().path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("image_00007.jpg or its label is missing"),
            "{error}"
        );
    }

    #[test]
    fn damaged_tables_are_named() {
        let (images, mut tables) = small_flowers();
        tables.add(SPLITS, b"not a MATLAB file".to_vec());
        let error = open(together(&images, &tables).folder().path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("setid.mat") && error.contains("not a little-endian"),
            "{error}"
        );
    }

    #[test]
    fn the_class_names_are_all_different() {
        let names: std::collections::BTreeSet<_> = CLASS_NAMES.into_iter().collect();
        assert_eq!(names.len(), 102);
    }
}
