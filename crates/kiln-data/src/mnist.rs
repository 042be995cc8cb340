//! MNIST: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998.
//!
//! Its idx files are big-endian: a magic number (0, 0, 8 for unsigned bytes, the number of dimensions), each dimension
//! as 32 bits, then the bytes. Fashion-MNIST and KMNIST come in the same files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use crate::config::{DataConfig, DatasetKind};
use crate::contents::read_at_most;
use crate::dataset::ImageShape;
use crate::download;
use crate::error::DataError;
use crate::loading::{Found, Item, Picture};
use crate::progress::Progress;

/// The side that MNIST's 28x28 is padded to, and by how much on each side.
const PADDED_SIDE: usize = 32;
const SIDE: usize = 28;
/// No idx file that makes sense decompresses to more.
const MAX_IDX_BYTES: u64 = 1 << 30;
/// Of the embedded 10,000 images, every tenth is for validation. Spread out, because the second half of them was
/// written by other people than the first and is harder.
const EMBEDDED_VALIDATION_STRIDE: usize = 10;

/// The 10,000 test images; `data/README.md` says where they come from and under which licence.
const EMBEDDED_IMAGES: &[u8] = include_bytes!("../data/t10k-images-idx3-ubyte.gz");
const EMBEDDED_LABELS: &[u8] = include_bytes!("../data/t10k-labels-idx1-ubyte.gz");

/// Finds MNIST at the config's path, or else in the cache, downloading what is missing there.
pub(crate) fn find(config: &DataConfig, progress: &dyn Progress) -> Result<Found, DataError> {
    let folder = match &config.path {
        Some(path) => path.clone(),
        None => download::mnist(progress)?,
    };
    find_in(&folder, config.size)
}

fn find_in(folder: &Path, size: usize) -> Result<Found, DataError> {
    let metadata = fs::metadata(folder).map_err(|error| DataError::reading(folder, error))?;
    if !metadata.is_dir() {
        return Err(DataError::Unexpected {
            path: folder.to_owned(),
            expected: "a folder that holds MNIST's four idx files".to_owned(),
        });
    }
    let (train, train_side) = read_split(folder, "train")?;
    let (validation, validation_side) = read_split(folder, "t10k")?;
    let side = if train_side == validation_side {
        train_side
    } else {
        None
    };
    Ok(describe(folder, "mnist", size, side, train, validation))
}

/// The images that are compiled in.
pub(crate) fn find_embedded(config: &DataConfig) -> Result<Found, DataError> {
    if config.path.is_some() {
        return Err(DataError::PathRefused(DatasetKind::Mnist10k));
    }
    let path = Path::new("the embedded MNIST");
    let damaged = |reason| DataError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let images = decompressed(EMBEDDED_IMAGES).map_err(damaged)?;
    let labels = decompressed(EMBEDDED_LABELS).map_err(damaged)?;
    let (items, side) = items(images, &labels).map_err(damaged)?;
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        let held_out = (index + 1).is_multiple_of(EMBEDDED_VALIDATION_STRIDE);
        if held_out {
            &mut validation
        } else {
            &mut train
        }
        .push(item);
    }
    Ok(describe(
        path,
        "mnist-10k",
        config.size,
        side,
        train,
        validation,
    ))
}

fn describe(
    path: &Path,
    name: &str,
    size: usize,
    side: Option<usize>,
    train: Vec<Item>,
    validation: Vec<Item>,
) -> Found {
    // Ten digits, or more classes where a relative of MNIST has them.
    let labels = train
        .iter()
        .chain(&validation)
        .filter_map(|item| item.label);
    let classes = labels.max().unwrap_or(0).max(9) + 1;
    let is_padded = side == Some(SIDE) && size == PADDED_SIDE;
    Found {
        path: path.to_owned(),
        name: name.to_owned(),
        class_names: (0..classes).map(|class| class.to_string()).collect(),
        border: if is_padded {
            (PADDED_SIDE - SIDE) / 2
        } else {
            0
        },
        train,
        validation,
    }
}

/// The images and labels of `train` or `t10k`, and the side of the images if they are square.
fn read_split(folder: &Path, split: &str) -> Result<(Vec<Item>, Option<usize>), DataError> {
    let (images_path, images) = read_file(folder, split, "images", 3)?;
    let (labels_path, labels) = read_file(folder, split, "labels", 1)?;
    items(images, &labels).map_err(|reason| DataError::Damaged {
        path: images_path,
        reason: format!("{reason} (its labels are {})", labels_path.display()),
    })
}

/// Reads `SPLIT-CONTENT-idxN-ubyte`, which may end in `.gz`, have a dot before `idx`, or be where torchvision puts it.
fn read_file(
    folder: &Path,
    split: &str,
    content: &str,
    dimensions: u8,
) -> Result<(PathBuf, Vec<u8>), DataError> {
    for place in [folder.to_owned(), folder.join("MNIST").join("raw")] {
        for separator in ["-", "."] {
            for ending in [".gz", ""] {
                let name = format!("{split}-{content}{separator}idx{dimensions}-ubyte{ending}");
                let path = place.join(name);
                let bytes = match fs::read(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    read => read.map_err(|error| DataError::reading(&path, error))?,
                };
                return match decompressed(&bytes) {
                    Ok(bytes) => Ok((path, bytes)),
                    Err(reason) => Err(DataError::Damaged { path, reason }),
                };
            }
        }
    }
    Err(DataError::Unexpected {
        path: folder.to_owned(),
        expected: format!(
            "a folder that holds MNIST: {split}-{content}-idx{dimensions}-ubyte.gz is missing in it"
        ),
    })
}

/// The content of a file that may be gzipped, whatever its name.
fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    read_at_most(MultiGzDecoder::new(bytes), MAX_IDX_BYTES)
        .map_err(|error| format!("it cannot be decompressed ({error})"))
}

/// Pairs the images of one idx file with the labels of another; also the side of the images if they are square.
fn items(images: Vec<u8>, labels: &[u8]) -> Result<(Vec<Item>, Option<usize>), String> {
    let ([count, rows, columns], _) = parse_idx::<3>(&images)?;
    let ([label_count], labels) = parse_idx::<1>(labels)?;
    if count != label_count {
        return Err(format!("there are {count} images but {label_count} labels"));
    }
    if rows == 0 || columns == 0 {
        return Err(format!("its images have {rows}x{columns} pixels"));
    }
    let shape = ImageShape {
        channels: 1,
        height: rows,
        width: columns,
    };
    let bytes: Arc<[u8]> = images.into();
    let items = labels.iter().enumerate().map(|(index, &label)| Item {
        label: Some(u32::from(label)),
        picture: Picture::Pixels {
            bytes: bytes.clone(),
            start: idx_header(3) + index * shape.elements(),
            shape,
        },
    });
    Ok((items.collect(), (rows == columns).then_some(rows)))
}

/// The bytes before the data of an idx file.
const fn idx_header(dimensions: usize) -> usize {
    4 + 4 * dimensions
}

/// The `N` dimensions and the data of an idx file of unsigned bytes, whose length must be their product.
fn parse_idx<const N: usize>(bytes: &[u8]) -> Result<([usize; N], &[u8]), String> {
    let word = |index: usize| -> Result<u32, String> {
        let word = bytes
            .get(4 * index..4 * index + 4)
            .and_then(|word| word.try_into().ok());
        word.map(u32::from_be_bytes)
            .ok_or_else(|| "its header is cut short".to_owned())
    };
    let magic = word(0)?;
    if magic != 0x0800 + N as u32 {
        return Err(format!(
            "its magic number is {magic:#010x} instead of {:#010x}",
            0x0800 + N
        ));
    }
    let mut dimensions = [0; N];
    for (index, dimension) in dimensions.iter_mut().enumerate() {
        *dimension = word(index + 1)? as usize;
    }
    let data = &bytes[idx_header(N)..];
    let declared = dimensions
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side));
    if declared != Some(data.len()) {
        let declared = dimensions.map(|side| side.to_string()).join(" x ");
        return Err(format!(
            "its header declares {declared} bytes but {} follow",
            data.len()
        ));
    }
    Ok((dimensions, data))
}
