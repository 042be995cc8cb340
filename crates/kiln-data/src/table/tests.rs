//! Tables from Python's `datasets`, and others.

use std::fs::File;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::examples;
use crate::progress::NoProgress;

const SCHEMA: &str = "message table {
    OPTIONAL INT64 width;
    OPTIONAL GROUP picture { OPTIONAL BYTE_ARRAY bytes; OPTIONAL BYTE_ARRAY path (UTF8); }
    OPTIONAL INT64 kind;
}";
const FEATURES: &str = r#"{"info": {"features": {
    "picture": {"_type": "Image"},
    "kind": {"_type": "ClassLabel", "names": ["dark", "light"]}
}}}"#;

/// A table of gray images of these levels with labels, in row groups of two; level 0 means a row without an image.
fn write(path: &Path, rows: &[(u8, i64)], features: Option<&str>) {
    write_as(SCHEMA, path, rows, features);
}

fn write_as(schema: &str, path: &Path, rows: &[(u8, i64)], features: Option<&str>) {
    let features =
        features.map(|text| vec![KeyValue::new("huggingface".to_owned(), text.to_owned())]);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(features)
        .build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(2) {
        let images: Vec<ByteArray> = rows
            .iter()
            .filter(|(level, _)| *level > 0)
            .map(|(level, _)| examples::png(*level).into())
            .collect();
        let image_levels: Vec<i16> = rows
            .iter()
            .map(|(level, _)| if *level > 0 { 2 } else { 0 })
            .collect();
        let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
        let given = vec![1; rows.len()];
        let none = vec![0; rows.len()];
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[], Some(&none), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&images, Some(&image_levels), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&[], Some(&none), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&labels, Some(&given), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn open(train: &[PathBuf], validation: &[PathBuf]) -> Result<Datasets, DataError> {
    let tables = Tables {
        name: "ada/levels".to_owned(),
        train: train.to_vec(),
        validation: validation.to_vec(),
    };
    open_tables(
        &tables,
        &DataConfig::new(DatasetKind::Folder, 8, 1),
        &NoProgress,
    )
}

/// The level of each image, and its label.
fn shown(set: &crate::ImageDataset) -> Vec<(u8, Option<usize>)> {
    let level = |index| ((set.image(index, false).unwrap()[0] + 1.0) * 127.5).round() as u8;
    (0..set.len())
        .map(|index| (level(index), set.label(index)))
        .collect()
}

#[test]
fn images_come_with_their_labels_from_every_row_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(
        &path("one.parquet"),
        &[(10, 0), (0, 1), (30, 1), (40, 1), (50, 0)],
        Some(FEATURES),
    );
    write(&path("two.parquet"), &[(60, 1)], Some(FEATURES));
    write(&path("test.parquet"), &[(70, 1), (80, 0)], Some(FEATURES));
    let datasets = open(
        &[path("one.parquet"), path("two.parquet")],
        &[path("test.parquet")],
    )
    .unwrap();
    assert_eq!(datasets.train.class_names(), ["dark", "light"]);
    assert_eq!(datasets.train.name(), "ada/levels");
    assert_eq!(shown(&datasets.validation), [(70, Some(1)), (80, Some(0))]);
    // The row without an image is left out.
    let expected = [(10, 0), (30, 1), (40, 1), (50, 0), (60, 1)];
    let expected = expected.map(|(level, label)| (level, Some(label)));
    assert_eq!(shown(&datasets.train), expected);
}

#[test]
fn many_rows_without_a_class_take_the_labels_from_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.parquet");
    write(
        &path,
        &[(10, 0), (20, -1), (30, 1), (40, -1)],
        Some(FEATURES),
    );
    let datasets = open(&[path], &[]).unwrap();
    assert_eq!(datasets.train.len() + datasets.validation.len(), 4);
    assert!(!datasets.train.has_labels() && datasets.train.class_names().is_empty());
    assert_eq!(
        datasets.train.unlabelled(),
        Some("2 of 4 images of ada/levels have no class (the first is row 1 of some.parquet)")
    );
}

#[test]
fn a_few_rows_without_a_class_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(
        &path("train.parquet"),
        &[(10, 0), (20, -1), (30, 1), (40, 1), (50, 0)],
        Some(FEATURES),
    );
    // Like the test set of a competition.
    write(&path("test.parquet"), &[(70, -1), (80, -1)], Some(FEATURES));
    let datasets = open(&[path("train.parquet")], &[path("test.parquet")]).unwrap();
    assert_eq!(datasets.train.class_names(), ["dark", "light"]);
    let mut all = [shown(&datasets.train), shown(&datasets.validation)].concat();
    all.sort_unstable();
    let expected = [(10, 0), (30, 1), (40, 1), (50, 0)];
    assert_eq!(all, expected.map(|(level, label)| (level, Some(label))));
}

#[test]
fn whole_numbers_that_are_no_classes_are_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.parquet");
    let rows: Vec<(u8, i64)> = (1..=20).map(|id| (id, 7_000_000 + i64::from(id))).collect();
    // Declared as a number, or not declared but called `label`.
    let value = FEATURES.replace(
        r#"{"_type": "ClassLabel", "names": ["dark", "light"]}"#,
        r#"{"_type": "Value"}"#,
    );
    write(&path, &rows, Some(&value));
    assert!(
        !open(std::slice::from_ref(&path), &[])
            .unwrap()
            .train
            .has_labels()
    );
    write_as(&SCHEMA.replace("kind", "label"), &path, &rows, None);
    assert!(
        !open(std::slice::from_ref(&path), &[])
            .unwrap()
            .train
            .has_labels()
    );
    // If they are declared as classes, they are a mistake.
    write(&path, &rows, Some(FEATURES));
    let message = open(&[path], &[]).unwrap_err().to_string();
    assert!(
        message.contains("has classes up to number 7000020"),
        "{message}"
    );
}

#[test]
fn small_numbers_called_labels_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.parquet");
    let rows: Vec<(u8, i64)> = (1..=20)
        .map(|level| (level, i64::from(level % 3)))
        .collect();
    write_as(&SCHEMA.replace("kind", "label"), &path, &rows, None);
    let datasets = open(&[path], &[]).unwrap();
    assert_eq!(datasets.train.class_names(), ["0", "1", "2"]);
}

#[test]
fn columns_can_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.parquet");
    let rows: Vec<(u8, i64)> = (1..=20)
        .map(|level| (level, i64::from(level % 2)))
        .collect();
    write(&path, &rows, None);
    let with = |image: Option<&str>, label: Option<&str>| {
        let config = DataConfig {
            image_column: image.map(str::to_owned),
            label_column: label.map(str::to_owned),
            path: Some(path.clone()),
            ..DataConfig::new(DatasetKind::Folder, 8, 1)
        };
        // A table on this machine is opened by its path.
        crate::open(&config, &NoProgress).map_err(|error| error.to_string())
    };
    assert!(!with(None, None).unwrap().train.has_labels());
    let datasets = with(Some("picture"), Some("kind")).unwrap();
    assert_eq!(datasets.train.class_names(), ["0", "1"]);
    for (image, label, words) in [
        (
            Some("photo"),
            None,
            "no column of images `photo`: set data.image_column to one of `picture`",
        ),
        (None, Some("sort"), "no column `sort` of whole numbers"),
    ] {
        let message = with(image, label).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    let config = DataConfig {
        image_column: Some("image".to_owned()),
        path: Some(folder.path().to_owned()),
        ..DataConfig::new(DatasetKind::Folder, 8, 1)
    };
    let message = crate::open(&config, &NoProgress).unwrap_err().to_string();
    assert!(message.contains("only tables have columns"), "{message}");
}

#[test]
fn rows_that_hold_no_image_at_all_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paths.parquet");
    write(&path, &[(0, 0), (0, 1), (0, 1)], Some(FEATURES));
    let message = open(&[path], &[]).unwrap_err().to_string();
    assert!(message.contains("has no images in its 3 rows"), "{message}");
    assert!(!message.contains("damaged"), "{message}");
}

#[test]
fn a_page_that_claims_too_much_is_not_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.parquet");
    write(&path, &[(10, 0), (20, 1)], Some(FEATURES));
    let mut bytes = std::fs::read(&path).unwrap();
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let chunk = reader.metadata().row_group(0).column(1).clone();
    let first = chunk.dictionary_page_offset();
    let place = first.unwrap_or(chunk.data_page_offset()) as usize;
    // A header begins with its type and, as a number of some bytes, the unpacked size of its page.
    assert_eq!((bytes[place], bytes[place + 2]), (0x15, 0x15));
    let size = place + 3;
    let len = 1 + bytes[size..].iter().position(|&byte| byte < 0x80).unwrap();
    bytes.splice(size..size + len, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    std::fs::write(&path, &bytes).unwrap();
    let message = open(&[path], &[]).unwrap_err().to_string();
    assert!(message.contains("claims to hold 2147483647"), "{message}");
}

#[test]
fn what_stands_in_place_of_a_table_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    for (bytes, words) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\n"[..],
            "git lfs pull",
        ),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"", "is empty"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = open(std::slice::from_ref(&path), &[])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(words) && !message.contains("damaged"),
            "{message}"
        );
    }
}

#[test]
fn without_a_validation_table_some_rows_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.parquet");
    let rows: Vec<(u8, i64)> = (1..=20).map(|level| (level * 10, 3)).collect();
    // Without declared columns, the group with bytes is the image; `kind` has no meaning then.
    write(&path, &rows, None);
    let datasets = open(&[path], &[]).unwrap();
    assert_eq!((datasets.train.len(), datasets.validation.len()), (18, 2));
    assert!(datasets.train.class_names().is_empty());
}

#[test]
fn what_is_no_table_of_images_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.parquet");
    write(&path, &[(10, 0), (20, 1), (30, 1)], Some(FEATURES));
    let whole = std::fs::read(&path).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        &whole[..3],
        b"",
        b"PAR1PAR1PAR1",
        &whole[whole.len() / 2..],
    ] {
        std::fs::write(&path, damaged).unwrap();
        let message = open(std::slice::from_ref(&path), &[])
            .unwrap_err()
            .to_string();
        assert!(message.contains("table.parquet"), "{message}");
    }
    assert!(
        open(&[folder.path().join("none.parquet")], &[])
            .unwrap_err()
            .to_string()
            .contains("none.parquet")
    );
}

/// A table of gray images with a column of text.
fn write_texts(path: &Path, column: &str, texts: &[&str]) {
    let schema = format!(
        "message table {{ REQUIRED BYTE_ARRAY image; REQUIRED BYTE_ARRAY {column} (UTF8); }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let images: Vec<ByteArray> = (1..)
        .zip(texts)
        .map(|(level, _)| examples::png(level).into())
        .collect();
    let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
    if !texts.is_empty() {
        let mut group = writer.next_row_group().unwrap();
        for values in [images, texts] {
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, None, None)
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn texts_in_a_column_of_labels_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pets.parquet");
    let texts = ["dog", "cat", "dog", "ant", "cat", "ant"];
    for (column, wanted) in [
        ("label", None),
        ("class", None),
        ("category", None),
        ("species", Some("species")),
    ] {
        write_texts(&path, column, &texts);
        let config = DataConfig {
            label_column: wanted.map(str::to_owned),
            ..DataConfig::new(DatasetKind::Folder, 8, 1)
        };
        let tables = Tables::of_file(&path);
        let datasets = open_tables(&tables, &config, &NoProgress).unwrap();
        assert_eq!(
            datasets.train.class_names(),
            ["ant", "cat", "dog"],
            "{column}"
        );
        for (level, label) in [shown(&datasets.train), shown(&datasets.validation)].concat() {
            let name = texts[usize::from(level) - 1];
            assert_eq!(
                label,
                ["ant", "cat", "dog"]
                    .iter()
                    .position(|known| *known == name)
            );
        }
    }
    // Other texts are not classes unless asked for, and neither are labels that are all different.
    write_texts(&path, "species", &texts);
    assert!(
        !open(std::slice::from_ref(&path), &[])
            .unwrap()
            .train
            .has_labels()
    );
    write_texts(&path, "label", &["a", "b", "c", "d"]);
    let datasets = open(&[path], &[]).unwrap();
    assert!(!datasets.train.has_labels() && datasets.train.class_names().is_empty());
}

#[test]
fn a_table_without_rows_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.parquet");
    write_texts(&path, "label", &[]);
    let error = open(&[path], &[]).unwrap_err().to_string();
    assert!(error.contains("is a Parquet table without rows"), "{error}");
}

#[test]
fn lists_of_images_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lists.parquet");
    let schema = "message table { REPEATED BYTE_ARRAY images; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = File::create(&path).unwrap();
    SerializedFileWriter::new(file, schema, Arc::default())
        .unwrap()
        .close()
        .unwrap();
    let error = open(&[path], &[]).unwrap_err().to_string();
    assert!(
        error.contains("has lists of images in its column `images`"),
        "{error}"
    );
}

#[test]
fn an_encrypted_table_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret.parquet");
    std::fs::write(&path, b"PARE and then what nobody can read, PARE").unwrap();
    let error = open(&[path], &[]).unwrap_err().to_string();
    assert!(error.contains("is an encrypted Parquet table"), "{error}");
}

#[test]
fn a_table_with_a_file_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [first, second] = ["t-0-of-2.parquet", "t-1-of-2.parquet"].map(path);
    write_texts(&first, "label", &["a", "b", "a", "b"]);
    let count = || -> Result<usize, DataError> {
        let config = DataConfig {
            path: Some(first.clone()),
            ..DataConfig::new(DatasetKind::Folder, 8, 1)
        };
        let datasets = crate::open(&config, &NoProgress)?;
        Ok(datasets.train.len() + datasets.validation.len())
    };
    let error = count().unwrap_err().to_string();
    assert!(error.contains("1 is missing (t-1-of-2.parquet)"), "{error}");
    // With the second file beside it, both are read.
    write_texts(&second, "label", &["b", "a"]);
    assert_eq!(count().unwrap(), 6);
}

#[test]
fn tables_that_are_read_while_training_hold_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows = |first: u8| -> Vec<(u8, i64)> {
        (first..first + 5)
            .map(|level| (10 * level, i64::from(level % 2)))
            .collect()
    };
    write(&path("train-0-of-2.parquet"), &rows(1), Some(FEATURES));
    write(&path("train-1-of-2.parquet"), &rows(6), Some(FEATURES));
    write(&path("test.parquet"), &rows(11), Some(FEATURES));
    let tables = Tables {
        name: "ada/levels".to_owned(),
        train: vec![path("train-0-of-2.parquet"), path("train-1-of-2.parquet")],
        validation: vec![path("test.parquet")],
    };
    let open = |stream| {
        let config = DataConfig {
            stream,
            ..DataConfig::new(DatasetKind::Folder, 8, 1)
        };
        open_tables(&tables, &config, &NoProgress).unwrap()
    };
    let (kept, read) = (open(None), open(Some(true)));
    assert!(kept.train.is_decoded() && !read.train.is_decoded());
    assert_eq!(shown(&kept.train), shown(&read.train));
    assert_eq!(shown(&kept.validation), shown(&read.validation));
    assert_eq!(kept.train.class_names(), read.train.class_names());
    // A table that changes is noticed when it is opened again.
    let mut rows = rows(6);
    rows.pop();
    let again = open(Some(true));
    write(&path("train-1-of-2.parquet"), &rows, Some(FEATURES));
    let problem = again.train.image(7, false).unwrap_err().to_string();
    assert!(
        problem.contains("has changed since this began"),
        "{problem}"
    );
    assert_ne!(
        open(Some(true)).train.fingerprint(),
        read.train.fingerprint()
    );
}

#[test]
fn a_row_without_an_image_has_a_stand_in_while_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write(&path, &[(10, 0), (0, 0), (30, 0), (40, 0), (50, 0)], None);
    let config = DataConfig {
        stream: Some(true),
        max_undecodable: 0.5,
        ..DataConfig::new(DatasetKind::Folder, 8, 1)
    };
    let tables = Tables {
        train: vec![path.clone()],
        validation: vec![path],
        ..Tables::default()
    };
    let set = open_tables(&tables, &config, &NoProgress).unwrap().train;
    let levels: Vec<u8> = shown(&set).into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, [10, 30, 30, 40, 50]);
}
