//! MNIST: Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits", 1998.
//!
//! Its idx files are big-endian: a magic number (0, 0, 8 for unsigned bytes, the number of dimensions), each dimension
//! as 32 bits, then the bytes. Fashion-MNIST and KMNIST use the same format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::DataConfig;
use crate::contents::{Gzip, Skipped, open_file, read_at_most, unpacked_limit};
use crate::dataset_kind::DatasetKind;
#[cfg(feature = "download")]
use crate::download;
use crate::error::DataError;
use crate::image_shape::ImageShape;
use crate::item::{Item, Picture};
use crate::loading::Found;
use crate::progress::Progress;

/// The padded side of MNIST's 28x28, and the padding on each side.
const PADDED_SIDE: usize = 32;
const SIDE: usize = 28;
/// The largest sensible size of a decompressed idx file.
const MAX_IDX_BYTES: u64 = 1 << 30;
/// Of the embedded 10,000 images, every tenth is for validation. They are spread out, because other people wrote the
/// second half, which is harder.
const EMBEDDED_VALIDATION_STRIDE: usize = 10;

/// The 10,000 test images; `data/README.md` states their source and licence.
const EMBEDDED_IMAGES: &[u8] = include_bytes!("../data/t10k-images-idx3-ubyte.gz");
const EMBEDDED_LABELS: &[u8] = include_bytes!("../data/t10k-labels-idx1-ubyte.gz");

/// Finds MNIST at the config's path, or else in the cache, and downloads missing files.
pub(crate) fn find(config: &DataConfig, progress: &dyn Progress) -> Result<Found, DataError> {
    match &config.path {
        Some(path) => find_in(path, config.size),
        None => find_without_path(config, progress),
    }
}

#[cfg(feature = "download")]
fn find_without_path(config: &DataConfig, progress: &dyn Progress) -> Result<Found, DataError> {
    find_in(download::mnist(progress)?.folder(), config.size)
}

#[cfg(not(feature = "download"))]
fn find_without_path(config: &DataConfig, _: &dyn Progress) -> Result<Found, DataError> {
    find_in(config.required_path()?, config.size)
}

/// Whether MNIST's files are in a folder: the first of them, where [`find`] looks for it.
pub(crate) fn is_at(folder: &Path) -> bool {
    places(folder, "train", "images", 3).any(|path| path.exists())
}

fn find_in(folder: &Path, size: usize) -> Result<Found, DataError> {
    if !folder.exists() {
        return Err(DataError::Missing(folder.to_owned()));
    }
    if !folder.is_dir() {
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

/// Pixels of padding on each side of a digit of `size` x `size`.
pub(crate) fn border(size: usize) -> usize {
    if size == PADDED_SIDE {
        (PADDED_SIDE - SIDE) / 2
    } else {
        0
    }
}

fn describe(
    path: &Path,
    name: &str,
    size: usize,
    side: Option<usize>,
    train: Vec<Item>,
    validation: Vec<Item>,
) -> Found {
    // Ten digits, or more classes in a relative of MNIST.
    let labels = train
        .iter()
        .chain(&validation)
        .filter_map(|item| item.label);
    let classes = labels.max().unwrap_or(0).max(9) + 1;
    Found {
        path: path.to_owned(),
        name: name.to_owned(),
        class_names: (0..classes).map(|class| class.to_string()).collect(),
        border: if side == Some(SIDE) { border(size) } else { 0 },
        train,
        validation,
        skipped: Skipped::default(),
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

/// Where `SPLIT-CONTENT-idxN-ubyte` may be: it may end in `.gz`, have a dot before `idx`, or be in torchvision's folder.
fn places<'a>(
    folder: &Path,
    split: &'a str,
    content: &'a str,
    dimensions: u8,
) -> impl Iterator<Item = PathBuf> + use<'a> {
    [folder.to_owned(), folder.join("MNIST").join("raw")]
        .into_iter()
        .flat_map(move |place| {
            [("-", ".gz"), ("-", ""), (".", ".gz"), (".", "")].map(|(separator, ending)| {
                let name = format!("{split}-{content}{separator}idx{dimensions}-ubyte{ending}");
                place.join(name)
            })
        })
}

/// Reads the first that there is of the [`places`].
fn read_file(
    folder: &Path,
    split: &str,
    content: &str,
    dimensions: u8,
) -> Result<(PathBuf, Vec<u8>), DataError> {
    for path in places(folder, split, content, dimensions) {
        let file = match open_file(&path) {
            Err(DataError::Missing(_)) => continue,
            opened => opened?.0,
        };
        let bytes =
            read_at_most(file, MAX_IDX_BYTES).map_err(|error| DataError::reading(&path, error))?;
        DataError::refuse_foreign(&path, &bytes)?;
        return match decompressed(&bytes) {
            Ok(bytes) => Ok((path, bytes)),
            Err(reason) => Err(DataError::Damaged { path, reason }),
        };
    }
    Err(DataError::Unexpected {
        path: folder.to_owned(),
        expected: format!(
            "a folder that holds MNIST ({split}-{content}-idx{dimensions}-ubyte.gz is missing)"
        ),
    })
}

/// The content of a file that may be gzipped, whatever its name.
fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let most = MAX_IDX_BYTES.min(unpacked_limit(bytes.len() as u64));
    read_at_most(Gzip::new(bytes), most)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{Files, gzip};
    use crate::progress::NoProgress;
    use proptest::prelude::*;

    fn idx(dimensions: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
        bytes.extend(dimensions.iter().flat_map(|side| side.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    /// Two splits of 28x28 images of one gray each, the number of the image.
    fn small_mnist(train: u8, validation: u8) -> Files {
        let mut files = Files::default();
        for (split, count) in [("train", train), ("t10k", validation)] {
            let images: Vec<u8> = (0..count).flat_map(|index| [index; 784]).collect();
            let labels: Vec<u8> = (0..count).map(|index| index % 10).collect();
            files.add(
                &format!("{split}-images-idx3-ubyte"),
                idx(&[u32::from(count), 28, 28], &images),
            );
            files.add(
                &format!("{split}-labels-idx1-ubyte"),
                idx(&[u32::from(count)], &labels),
            );
        }
        files
    }

    fn open(folder: &Path, size: usize, channels: usize) -> Result<crate::Datasets, DataError> {
        let path = Some(folder.to_owned());
        crate::open(
            &DataConfig {
                path,
                ..DataConfig::new(DatasetKind::Mnist, size, channels)
            },
            &NoProgress,
        )
    }

    #[test]
    fn at_32_the_digits_have_a_border_of_two() {
        let folder = small_mnist(12, 3).folder();
        let datasets = open(folder.path(), 32, 1).unwrap();
        assert_eq!((datasets.train.len(), datasets.validation.len()), (12, 3));
        assert_eq!(datasets.train.border(), 2);
        assert_eq!(datasets.train.class_names().len(), 10);
        assert_eq!(datasets.train.label(11), Some(1));
        let image = datasets.train.image(11, false).unwrap();
        for (index, &pixel) in image.iter().enumerate() {
            let inside = |position: usize| (2..30).contains(&position);
            let expected = if inside(index / 32) && inside(index % 32) {
                11.0 / 127.5 - 1.0
            } else {
                -1.0
            };
            assert_eq!(pixel, expected, "pixel {index}");
        }
    }

    #[test]
    fn at_28_they_are_as_they_are_and_otherwise_resized() {
        let folder = small_mnist(12, 3).folder();
        for (size, channels) in [(28, 1), (16, 1), (64, 3)] {
            let train = open(folder.path(), size, channels).unwrap().train;
            assert_eq!(train.border(), 0);
            let image = train.image(7, false).unwrap();
            assert_eq!(image.len(), channels * size * size);
            assert!(image.iter().all(|&pixel| pixel == 7.0 / 127.5 - 1.0));
        }
    }

    #[test]
    fn other_names_and_places_are_found() {
        let files = small_mnist(4, 4);
        let plain = files.folder();
        let expected = open(plain.path(), 28, 1)
            .unwrap()
            .train
            .fingerprint()
            .to_owned();
        let renamed = |rename: fn(&str) -> String, pack: fn(&[u8]) -> Vec<u8>| {
            let mut renamed = Files::default();
            for (name, bytes) in files.iter() {
                renamed.add(&rename(name), pack(bytes));
            }
            let folder = renamed.folder();
            open(folder.path(), 28, 1)
                .unwrap()
                .train
                .fingerprint()
                .to_owned()
        };
        assert_eq!(renamed(|name| format!("{name}.gz"), gzip), expected);
        assert_eq!(
            renamed(|name| name.replace("-idx", ".idx"), <[u8]>::to_vec),
            expected
        );
        assert_eq!(
            renamed(|name| format!("MNIST/raw/{name}"), <[u8]>::to_vec),
            expected
        );
        // The content of a file counts, not its name.
        assert_eq!(
            renamed(|name| format!("{name}.gz"), <[u8]>::to_vec),
            expected
        );
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let message = |files: &Files| open(files.folder().path(), 32, 1).unwrap_err().to_string();
        let mut files = small_mnist(4, 4);
        files.remove("t10k-labels-idx1-ubyte");
        assert!(message(&files).contains("t10k-labels-idx1-ubyte.gz is missing"));

        files.add("t10k-labels-idx1-ubyte", idx(&[3], &[1, 2, 3]));
        assert!(
            message(&files).contains("4 images but 3 labels"),
            "{}",
            message(&files)
        );

        let whole = gzip(&idx(&[4], &[1, 2, 3, 4]));
        files.add("t10k-labels-idx1-ubyte", whole[..whole.len() - 9].to_vec());
        assert!(
            message(&files).contains("cannot be decompressed"),
            "{}",
            message(&files)
        );

        let missing = open(Path::new("no/such/folder"), 32, 1).unwrap_err();
        assert!(matches!(missing, DataError::Missing(_)));
        let file = small_mnist(1, 1).folder();
        let error = open(&file.path().join("train-images-idx3-ubyte"), 32, 1).unwrap_err();
        assert!(error.to_string().contains("a folder that holds"), "{error}");
    }

    #[test]
    fn lying_headers_are_errors() {
        for bytes in [
            idx(&[u32::MAX, u32::MAX, u32::MAX], &[]),
            idx(&[2, 2, 2], &[0; 7]),
            idx(&[2, 2, 2], &[0; 9]),
            idx(&[0x8000_0000, 2, 0x8000_0000], &[]),
            idx(&[2, 2], &[0; 4]),
            Vec::new(),
        ] {
            assert!(parse_idx::<3>(&bytes).is_err(), "{bytes:?}");
        }
        assert!(items(idx(&[2, 0, 5], &[]), &idx(&[2], &[0, 1])).is_err());
        let data = [1, 2, 3, 4];
        assert_eq!(
            parse_idx::<3>(&idx(&[1, 2, 2], &data)).unwrap(),
            ([1, 2, 2], &data[..])
        );
    }

    #[test]
    fn the_embedded_images_are_divided_nine_to_one() {
        let datasets =
            crate::open(&DataConfig::new(DatasetKind::Mnist10k, 32, 1), &NoProgress).unwrap();
        assert_eq!(
            (datasets.train.len(), datasets.validation.len()),
            (9_000, 1_000)
        );
        assert_eq!(datasets.train.border(), 2);
        assert!(datasets.train.is_decoded());
        // The labels of the test set start with 7 2 1 0 4 1 4 9 5 9.
        let labels: Vec<_> = (0..9)
            .filter_map(|index| datasets.train.label(index))
            .collect();
        assert_eq!(labels, [7, 2, 1, 0, 4, 1, 4, 9, 5]);
        assert_eq!(datasets.validation.label(0), Some(9));
        for set in [&datasets.train, &datasets.validation] {
            for class in 0..10 {
                let count = (0..set.len())
                    .filter(|&index| set.label(index) == Some(class))
                    .count();
                assert!(
                    (set.len() / 15..set.len() / 7).contains(&count),
                    "{class}: {count}"
                );
            }
        }
    }

    #[test]
    fn the_embedded_images_take_no_path() {
        let mut config = DataConfig::new(DatasetKind::Mnist10k, 32, 1);
        config.path = Some("somewhere".into());
        assert!(matches!(
            crate::open(&config, &NoProgress),
            Err(DataError::PathRefused(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(
            header in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 8, 255]), 0..20),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let bytes = [header, rest].concat();
            let _ = parse_idx::<1>(&bytes);
            let _ = parse_idx::<3>(&bytes);
            let _ = decompressed(&bytes);
            let _ = items(bytes.clone(), &bytes);
        }

        #[test]
        fn what_was_written_is_read(count in 0u32..5, rows in 1u32..5, columns in 1u32..5) {
            let data: Vec<u8> = (0..count * rows * columns).map(|value| value as u8).collect();
            let labels = vec![3; count as usize];
            let (items, side) = items(idx(&[count, rows, columns], &data), &idx(&[count], &labels)).unwrap();
            prop_assert_eq!(items.len(), count as usize);
            prop_assert_eq!(side, (rows == columns).then_some(rows as usize));
        }
    }
}
