//! Oxford Flowers 102: M.-E. Nilsback and A. Zisserman, "Automated flower classification over a large number of
//! classes", 2008.
//!
//! `102flowers.tgz` (or its unpacked `jpg/`) holds `image_00001.jpg` to `image_08189.jpg`; `imagelabels.mat` has the
//! class of each, and `setid.mat` the numbers of three official splits.

use std::collections::BTreeMap;
use std::path::Path;

use crate::contents::{Content, Entry, list};
use crate::error::DataError;
use crate::loading::{Found, Item, Picture};
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

/// Finds the images, labels and splits in a zip, in a folder, or in `102flowers.tgz` or `jpg/` with the two `.mat`
/// files beside it.
pub(crate) fn find(path: &Path) -> Result<Found, DataError> {
    let mut entries = list(path)?;
    if let Some(archive) = entries.iter().find(|entry| entry.file_name() == ARCHIVE)
        && let Content::File(archive) = &archive.content
    {
        let unpacked = list(archive)?;
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
    })
}

/// 80% of an official split, rounded up, to train on; and the rest.
///
/// They are drawn at random, the same every time: the official splits list one class after the other, so that their
/// last fifth would be classes that training never saw.
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
    mat::read_vector(&bytes, name).map_err(|reason| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("of {} {reason}", file.name),
    })
}
