//! Images in Parquet files, as the Hugging Face Hub keeps data sets: a row per image, and a column with its class.
//!
//! A table is read once, a row group at a time. Its images, still encoded, go to a file of their own that lasts as long
//! as the data set, since rows of a table cannot be read out of order.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::config::{DataConfig, DatasetKind};
use crate::contents::{Content, Stretch};
use crate::dataset::Datasets;
use crate::error::DataError;
use crate::folder::hold_out;
use crate::loading::{self, Found, Item, Picture};
use crate::mnist;
use crate::progress::Progress;

/// Images that are read together: some megabytes of photographs.
const ROWS: usize = 64;
/// More classes than this are a mistake.
const MAX_CLASSES: i64 = 1 << 16;
/// Names of columns with classes, where the table does not say which one it is.
const LABELS: [&str; 3] = ["label", "labels", "fine_label"];

/// The Parquet files of a data set, by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The data set's name, for messages and the model's facts.
    pub name: String,
    /// Files with images to learn from.
    pub train: Vec<PathBuf>,
    /// Files with images to measure on. If there are none, a share of the others is held out.
    pub validation: Vec<PathBuf>,
}

/// Opens a data set that is in Parquet files, in the form that `config` asks for; its `dataset` and `path` do not count.
///
/// The image column is the one that holds encoded images (a group with a field `bytes`, or the bytes themselves). Labels
/// come from the column of classes, their names from what Python's `datasets` wrote beside the table.
///
/// # Errors
/// When a file cannot be read, is no Parquet file or holds no images, and as [`crate::open`].
pub fn open_tables(
    tables: &Tables,
    config: &DataConfig,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    config.validate()?;
    let mut train = Vec::new();
    let mut class_names = Vec::new();
    for path in &tables.train {
        read(path, &mut train, &mut class_names)?;
    }
    let mut validation = Vec::new();
    for path in &tables.validation {
        read(path, &mut validation, &mut class_names)?;
    }
    if validation.is_empty() {
        (train, validation) = hold_out(train, config.validation_fraction);
    }
    let found = Found {
        path: tables.train.first().cloned().unwrap_or_default(),
        name: tables.name.clone(),
        border: border(config),
        class_names: complete(class_names, &train, &validation),
        train,
        validation,
    };
    loading::load(found, config, loading::MEMORY_BUDGET, progress)
}

/// MNIST's digits are padded here as they are elsewhere; others come as they are.
fn border(config: &DataConfig) -> usize {
    match config.dataset {
        DatasetKind::Mnist | DatasetKind::Mnist10k => mnist::border(config.size),
        _ => 0,
    }
}

/// Names for all labels: where the table gives too few, the rest are numbers.
fn complete(mut names: Vec<String>, train: &[Item], validation: &[Item]) -> Vec<String> {
    let labels = train.iter().chain(validation).filter_map(|item| item.label);
    let count = labels.max().map_or(0, |last| last as usize + 1);
    names.extend((names.len()..count).map(|label| label.to_string()));
    names
}

/// Adds a table's images to `items`, and takes over the names of its classes.
fn read(
    path: &Path,
    items: &mut Vec<Item>,
    class_names: &mut Vec<String>,
) -> Result<(), DataError> {
    let file = File::open(path).map_err(|error| DataError::reading(path, error))?;
    let damaged = |error: ParquetError| DataError::Damaged {
        path: path.to_owned(),
        reason: format!("it cannot be read as a Parquet table ({error})"),
    };
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let columns = Columns::find(&reader).ok_or_else(|| DataError::Unexpected {
        path: path.to_owned(),
        expected: "a Parquet table with a column of images".to_owned(),
    })?;
    if class_names.is_empty() {
        class_names.clone_from(&columns.class_names);
    }
    let kept = |error| DataError::writing(&std::env::temp_dir(), error);
    let mut images = Images::new().map_err(kept)?;
    let mut stretches = Vec::new();
    let mut labels = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let column = group.get_column_reader(columns.image).map_err(damaged)?;
        let before = stretches.len();
        images
            .take(column, rows, &mut stretches)
            .map_err(|error| match error {
                Problem::Table(error) => damaged(error),
                Problem::Keeping(error) => kept(error),
            })?;
        let found = stretches.len() - before;
        match columns.label {
            Some(label) => {
                let column = group.get_column_reader(label).map_err(damaged)?;
                let mut of_group = read_labels(column, found).map_err(damaged)?;
                of_group.resize(found, None);
                labels.append(&mut of_group);
            }
            None => labels.resize(stretches.len(), None),
        }
    }
    let place = images.finish().map_err(kept)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let rows = stretches.into_iter().zip(labels).enumerate();
    items.extend(rows.filter_map(|(row, (stretch, label))| {
        // A row without an image is no image that could not be decoded.
        let (start, len) = stretch?;
        Some(Item {
            label,
            picture: Picture::Encoded {
                name: format!("row {row} of {file_name}"),
                content: Content::Stretch(Stretch {
                    file: place.clone(),
                    start,
                    len,
                }),
            },
        })
    }));
    Ok(())
}

/// Which leaves of a table matter.
struct Columns {
    image: usize,
    label: Option<usize>,
    class_names: Vec<String>,
}

impl Columns {
    fn find(reader: &SerializedFileReader<File>) -> Option<Self> {
        let metadata = reader.metadata().file_metadata();
        let features = features(metadata.key_value_metadata());
        let is = |name: &str, kind: &str| features[name]["_type"] == kind;
        let schema = metadata.schema_descr();
        let leaves = || {
            let leaves = schema.columns().iter().enumerate();
            leaves.filter(|(_, leaf)| leaf.max_rep_level() == 0)
        };
        let find_image = |is_right: &dyn Fn(&str, bool) -> bool| {
            let mut leaves = leaves().filter(|(_, leaf)| leaf.physical_type() == Type::BYTE_ARRAY);
            let found = leaves.find(|(_, leaf)| match leaf.path().parts() {
                [name] => is_right(name, false),
                [name, bytes] => bytes == "bytes" && is_right(name, true),
                _ => false,
            });
            found.map(|(index, _)| index)
        };
        // What is said to be an image, what has the form of one, and what is called one, in this order.
        let image = find_image(&|name, _| is(name, "Image"))
            .or_else(|| find_image(&|_, is_group| is_group))
            .or_else(|| find_image(&|name, _| ["image", "img"].contains(&name)))?;
        let find_label = |is_right: &dyn Fn(&str) -> bool| {
            let mut leaves = leaves()
                .filter(|(_, leaf)| matches!(leaf.physical_type(), Type::INT32 | Type::INT64));
            leaves.find(|(_, leaf)| matches!(leaf.path().parts(), [name] if is_right(name)))
        };
        let label = find_label(&|name| LABELS.contains(&name) && is(name, "ClassLabel"))
            .or_else(|| find_label(&|name| is(name, "ClassLabel")))
            .or_else(|| find_label(&|name| LABELS.contains(&name)));
        let names = label.and_then(|(_, leaf)| features[leaf.name()]["names"].as_array());
        let names = names.into_iter().flatten();
        Some(Self {
            image,
            label: label.map(|(index, _)| index),
            class_names: names
                .map(|name| name.as_str().unwrap_or_default().to_owned())
                .collect(),
        })
    }
}

/// What Python's `datasets` says of the columns: `{"label": {"_type": "ClassLabel", "names": [..]}, ..}`.
fn features(metadata: Option<&Vec<parquet::file::metadata::KeyValue>>) -> Value {
    let entry = metadata.and_then(|all| all.iter().find(|entry| entry.key == "huggingface"));
    let text = entry
        .and_then(|entry| entry.value.as_deref())
        .unwrap_or_default();
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value["info"]["features"].clone()
}

/// Why images could not be taken out of a table.
enum Problem {
    Table(ParquetError),
    Keeping(io::Error),
}

/// Encoded images, one after the other in a file that goes away with the last who knows it.
struct Images {
    file: BufWriter<NamedTempFile>,
    len: u64,
}

impl Images {
    fn new() -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(NamedTempFile::new()?),
            len: 0,
        })
    }

    /// Takes the images of a row group, and notes where each is; none for a row without one.
    fn take(
        &mut self,
        column: ColumnReader,
        rows: usize,
        stretches: &mut Vec<Option<(u64, u64)>>,
    ) -> Result<(), Problem> {
        let ColumnReader::ByteArrayColumnReader(mut column) = column else {
            return Err(Problem::Table(ParquetError::General(
                "its images are no bytes".to_owned(),
            )));
        };
        let mut left = rows;
        while left > 0 {
            let images =
                next::<ByteArrayType>(&mut column, left.min(ROWS)).map_err(Problem::Table)?;
            if images.is_empty() {
                break;
            }
            left = left.saturating_sub(images.len());
            for image in images {
                let stretch = match image {
                    Some(image) => {
                        self.file
                            .write_all(image.data())
                            .map_err(Problem::Keeping)?;
                        let start = self.len;
                        self.len += image.len() as u64;
                        Some((start, image.len() as u64))
                    }
                    None => None,
                };
                stretches.push(stretch);
            }
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Arc<tempfile::TempPath>> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Arc::new(file.into_temp_path()))
    }
}

/// The labels of a row group of `rows` rows; none for a row without one, or with a negative one, as `datasets` marks the
/// unknown.
fn read_labels(column: ColumnReader, rows: usize) -> Result<Vec<Option<u32>>, ParquetError> {
    fn all<T: DataType>(
        mut column: ColumnReaderImpl<T>,
        rows: usize,
        number: impl Fn(T::T) -> i64,
    ) -> Result<Vec<Option<u32>>, ParquetError> {
        let mut labels = Vec::new();
        while labels.len() < rows {
            let some = next(&mut column, rows - labels.len())?;
            if some.is_empty() {
                break;
            }
            for label in some {
                let label = label.map(&number).filter(|label| *label >= 0);
                if label.is_some_and(|label| label >= MAX_CLASSES) {
                    return Err(ParquetError::General(
                        "its labels are no classes".to_owned(),
                    ));
                }
                labels.push(label.and_then(|label| u32::try_from(label).ok()));
            }
        }
        Ok(labels)
    }
    match column {
        ColumnReader::Int32ColumnReader(column) => all(column, rows, i64::from),
        ColumnReader::Int64ColumnReader(column) => all(column, rows, |number| number),
        _ => Err(ParquetError::General(
            "its labels are no integers".to_owned(),
        )),
    }
}

/// The next values of a column, at most `rows`: none where a row has none.
fn next<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    rows: usize,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    column.read_records(rows, Some(&mut levels), None, &mut values)?;
    if levels.is_empty() {
        // A required column has no levels: every row has a value.
        return Ok(values.into_iter().map(Some).collect());
    }
    // Rows that have a value are those at the deepest level. Where there are values, it is the greatest; where there are
    // none, it makes no difference.
    let deepest = levels.iter().copied().max();
    let mut values = values.into_iter();
    let value = |level| {
        if Some(level) == deepest {
            values.next()
        } else {
            None
        }
    };
    Ok(levels.into_iter().map(value).collect())
}

#[cfg(test)]
mod tests {
    use parquet::data_type::{ByteArray, Int64Type};
    use parquet::file::metadata::KeyValue;
    use parquet::file::properties::WriterProperties;
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

    /// A table of gray images of these levels with labels, in row groups of two; level 0 is a row without an image.
    fn write(path: &Path, rows: &[(u8, i64)], features: Option<&str>) {
        let features =
            features.map(|text| vec![KeyValue::new("huggingface".to_owned(), text.to_owned())]);
        let properties = WriterProperties::builder()
            .set_key_value_metadata(features)
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
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
            &[(10, 0), (0, 1), (30, 1), (40, -1), (50, 0)],
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
        // One row has no label, and a set has labels for all of its images or for none.
        let levels: Vec<u8> = shown(&datasets.train)
            .iter()
            .map(|(level, _)| *level)
            .collect();
        assert_eq!(levels, [10, 30, 40, 50, 60]);
    }

    #[test]
    fn without_a_validation_table_some_rows_are_held_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.parquet");
        let rows: Vec<(u8, i64)> = (1..=20).map(|level| (level * 10, 3)).collect();
        // Without a word about the columns, the group with bytes is the image; `kind` means nothing then.
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
}
