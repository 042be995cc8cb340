//! Images in Parquet files, the format of data sets on the Hugging Face Hub: a row per image, and a column with its
//! class.
//!
//! A table is read once, a row group at a time. Its images, still encoded, go to a separate file that lasts as long as
//! the data set, because the rows of a table cannot be read out of order.

mod columns;
mod declared;
mod pages;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use self::columns::Columns;
use crate::config::DataConfig;
use crate::contents::{Content, Skipped, Spool, Stretch, open_file, start_of};
use crate::dataset::Datasets;
use crate::dataset_kind::DatasetKind;
use crate::error::DataError;
use crate::folder::hold_out;
use crate::item::{Item, Picture};
use crate::kind::Kind;
use crate::loading::{self, Found};
use crate::mnist;
use crate::names;
use crate::progress::Progress;

/// Images per read: some megabytes of photographs.
const ROWS: usize = 64;
/// Rows to check whether a column of texts could hold classes.
const SEEN: usize = 4096;
/// Texts are classes if there are at least this many images for each.
const IMAGES_OF_A_CLASS: usize = 2;
/// More classes than this are a mistake.
const MAX_CLASSES: i64 = 1 << 16;

/// The Parquet files of a data set, by purpose.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The data set's name, for messages and the model's metadata.
    pub name: String,
    /// Files with images to learn from.
    pub train: Vec<PathBuf>,
    /// Files with images to measure on. If there are none, a share of the others is held out.
    pub validation: Vec<PathBuf>,
}

impl Tables {
    /// A data set of one file, or of several including this one.
    pub(crate) fn of_file(path: &Path) -> Self {
        Self {
            name: names::of_path(Path::new(path.file_stem().unwrap_or_default())),
            train: shards::of_the_same_table(path),
            validation: Vec::new(),
        }
    }
}

/// Whether there is a Parquet file at `path`.
pub(crate) fn is_table(path: &Path) -> bool {
    let start = open_file(path).ok().map(|(file, _)| start_of(file));
    start.is_some_and(|start| start.is_ok_and(|start| Kind::of(&start) == Kind::Parquet))
}

/// Opens a data set in Parquet files, in the form that `config` asks for; its `dataset` and `path` are ignored.
///
/// The image column is [`DataConfig::image_column`], or the one with encoded images (a group with a field `bytes`, or
/// the bytes themselves). Among several it is the one called `image`, or else the first, with a message. Labels come
/// from [`DataConfig::label_column`], or the column that is declared as classes, with the names that Python's
/// `datasets` wrote beside the table. In a text column `label`, `class` or `category` the texts are the names. Rows
/// without an image are left out and counted, and so are rows without a class if most have one.
///
/// # Errors
/// If a file is missing, cannot be read, is not a Parquet file or has no images, and the errors of [`crate::open`].
pub fn open_tables(
    tables: &Tables,
    config: &DataConfig,
    progress: &dyn Progress,
) -> Result<Datasets, DataError> {
    config.validate()?;
    shards::refuse_missing(tables.train.iter().chain(&tables.validation))?;
    let mut rows = Rows::default();
    for path in &tables.train {
        rows.read(path, config)?;
    }
    let mut train = std::mem::take(&mut rows.items);
    for path in &tables.validation {
        rows.read(path, config)?;
    }
    let mut validation = std::mem::take(&mut rows.items);
    rows.say_what_is_missing(&tables.name);
    if rows.count == 0 {
        return Err(DataError::Unusable {
            path: tables.train.first().cloned().unwrap_or_default(),
            problem: "is a Parquet table without rows: take another data set".to_owned(),
        });
    }
    rows.sort_texts(&mut train, &mut validation);
    if rows.labels_are_no_classes(train.len() + validation.len()) {
        tracing::warn!(
            "the {} in the label column of {} are not classes, so they are not used",
            if rows.texts.is_empty() {
                "whole numbers"
            } else {
                "texts"
            },
            tables.name
        );
        rows.class_names.clear();
        for item in train.iter_mut().chain(&mut validation) {
            item.label = None;
        }
    }
    leave_out_unlabelled(&tables.name, &mut train, &mut validation);
    if validation.is_empty() {
        (train, validation) = hold_out(train, config.validation_fraction);
    }
    let found = Found {
        path: tables.train.first().cloned().unwrap_or_default(),
        name: tables.name.clone(),
        border: border(config),
        class_names: complete(&tables.name, rows.class_names, &train, &validation),
        train,
        validation,
        skipped: Skipped::default(),
    };
    loading::load(found, config, loading::MEMORY_BUDGET, progress)
}

/// MNIST's digits are padded as elsewhere; other images are not.
fn border(config: &DataConfig) -> usize {
    match config.dataset {
        DatasetKind::Mnist | DatasetKind::Mnist10k => mnist::border(config.size),
        _ => 0,
    }
}

/// Leaves out the rows without a class if they are the minority; otherwise the classes are useless.
fn leave_out_unlabelled(data_set: &str, train: &mut Vec<Item>, validation: &mut Vec<Item>) {
    let all = || train.iter().chain(&*validation);
    let (total, count) = (
        all().count(),
        all().filter(|item| item.label.is_none()).count(),
    );
    let Some(first) = all().find(|item| item.label.is_none()) else {
        return;
    };
    if 2 * count < total {
        tracing::warn!(
            "left out {count} of {total} images of {data_set}, which have no class (the first is {})",
            first.name()
        );
        train.retain(|item| item.label.is_some());
        validation.retain(|item| item.label.is_some());
    }
}

/// Names for all labels: if the table has too few, the rest are numbers.
fn complete(
    data_set: &str,
    mut names: Vec<String>,
    train: &[Item],
    validation: &[Item],
) -> Vec<String> {
    let labels = train.iter().chain(validation).filter_map(|item| item.label);
    let count = labels.max().map_or(0, |last| last as usize + 1);
    if (1..count).contains(&names.len()) {
        tracing::warn!(
            "{data_set} names {} of its {count} classes; the others are called by their numbers",
            names.len()
        );
    }
    names.extend((names.len()..count).map(|label| label.to_string()));
    names
}

/// The rows read so far from a data set's tables.
#[derive(Default)]
struct Rows {
    items: Vec<Item>,
    class_names: Vec<String>,
    /// All rows, including those without an image.
    count: usize,
    /// How many rows have no image, and which is the first.
    without_image: Option<(usize, String)>,
    /// Whether only its name suggests that the label column holds classes.
    labels_are_guessed: bool,
    largest_label: i64,
    /// Classes that are texts, numbered in order of appearance.
    texts: BTreeMap<String, i64>,
    columns_are_said: bool,
    /// The complaints about descriptions of columns so far: all files of a table may have the same.
    complaints: BTreeSet<String>,
}

impl Rows {
    /// Adds a table's images, and uses the names of its classes.
    fn read(&mut self, path: &Path, config: &DataConfig) -> Result<(), DataError> {
        let unusable = |problem: String| DataError::Unusable {
            path: path.to_owned(),
            problem,
        };
        let damaged = |error: ParquetError| DataError::Damaged {
            path: path.to_owned(),
            reason: format!("it cannot be read as a Parquet table ({error})"),
        };
        let (file, len) = open_file(path)?;
        refuse_other_files(path, &file)?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let columns = Columns::find(&reader, config).map_err(unusable)?;
        let file_name = names::of_path(Path::new(path.file_name().unwrap_or_default()));
        if let Some(word) = columns.word.as_ref().filter(|_| !self.columns_are_said) {
            tracing::warn!("{file_name}: {word}");
            self.columns_are_said = true;
        }
        if let Some(complaint) = columns.complaint {
            self.say_once(&file_name, complaint);
        }
        if self.class_names.is_empty() {
            self.class_names = columns.class_names;
        } else if !columns.class_names.is_empty() && columns.class_names != self.class_names {
            let complaint =
                "it names the classes otherwise than the files before it, whose names are used";
            self.say_once(&file_name, complaint.to_owned());
        }
        self.labels_are_guessed |= columns.label_is_guessed;
        if reader.metadata().file_metadata().num_rows() == 0 {
            return Ok(());
        }
        if columns.label.is_none() && !self.columns_are_said {
            self.say_what_could_be_classes(&file_name, &reader, &columns.texts);
            self.columns_are_said = true;
        }
        let leaves = [Some(columns.image), columns.label];
        for leaf in leaves.into_iter().flatten() {
            pages::check(path, len, &reader, leaf)?;
        }

        let kept = |error| DataError::writing(&std::env::temp_dir(), error);
        let mut spool = Spool::new().map_err(kept)?;
        let mut row = 0;
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(damaged)?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let column = group.get_column_reader(columns.image).map_err(damaged)?;
            let images = read_images(column, rows, &mut spool).map_err(|error| match error {
                Problem::Table(error) => damaged(error),
                Problem::Keeping(error) => kept(error),
            })?;
            let mut labels = match columns.label {
                Some(label) => {
                    let column = group.get_column_reader(label).map_err(damaged)?;
                    read_labels(column, images.len(), &mut self.texts).map_err(damaged)?
                }
                None => Vec::new(),
            };
            labels.resize(images.len(), None);
            for (image, label) in images.into_iter().zip(labels) {
                self.add(format!("row {row} of {file_name}"), image, label);
                row += 1;
            }
        }
        spool.finish().map_err(kept)?;
        if row > 0 && self.items.is_empty() {
            return Err(unusable(format!(
                "has no images in its {row} rows, at most paths of files elsewhere: use a data set that \
                 holds its images (`push_to_hub` of Python's `datasets` writes one)"
            )));
        }
        if !self.labels_are_guessed && self.largest_label >= MAX_CLASSES {
            return Err(unusable(format!(
                "has classes up to number {}, more than {MAX_CLASSES}: they are a mistake",
                self.largest_label
            )));
        }
        Ok(())
    }

    fn add(&mut self, name: String, image: Option<Stretch>, label: Option<i64>) {
        self.count += 1;
        let Some(image) = image else {
            self.without_image.get_or_insert((0, name)).0 += 1;
            return;
        };
        self.largest_label = self.largest_label.max(label.unwrap_or(0));
        // Python's `datasets` writes -1 for an unknown class.
        let label = label.filter(|label| (0..MAX_CLASSES).contains(label));
        self.items.push(Item {
            label: label.and_then(|label| u32::try_from(label).ok()),
            picture: Picture::Encoded {
                name,
                content: Content::Stretch(image),
            },
        });
    }

    /// Warns of what is wrong with a file, unless it was wrong with another one.
    fn say_once(&mut self, file: &str, complaint: String) {
        if !self.complaints.contains(&complaint) {
            tracing::warn!("{file}: {complaint}");
            self.complaints.insert(complaint);
        }
    }

    /// Warns of rows without an image.
    fn say_what_is_missing(&self, data_set: &str) {
        if let Some((count, first)) = &self.without_image {
            tracing::warn!(
                "left out {count} of {} rows of {data_set}, which hold no image (the first is {first})",
                self.count
            );
        }
    }

    /// Suggests a column of texts that could be classes, among the columns with these numbers.
    fn say_what_could_be_classes(
        &self,
        table: &str,
        reader: &SerializedFileReader<File>,
        texts: &[(usize, String)],
    ) {
        let Ok(group) = reader.get_row_group(0) else {
            return;
        };
        let could_be = texts.iter().find(|(leaf, _)| {
            let mut found = BTreeMap::new();
            let labels = group
                .get_column_reader(*leaf)
                .and_then(|column| read_labels(column, SEEN, &mut found));
            let count = labels.map_or(0, |labels| labels.len());
            found.len() > 1 && count >= IMAGES_OF_A_CLASS * found.len()
        });
        if let Some((_, column)) = could_be {
            tracing::warn!(
                "{table} has no classes; its column `{column}` has few texts: --set data.label_column={column} makes them classes"
            );
        }
    }

    /// Renumbers text classes by their sorted names.
    fn sort_texts(&mut self, train: &mut [Item], validation: &mut [Item]) {
        if self.texts.is_empty() {
            return;
        }
        let mut sorted = vec![None; self.texts.len()];
        for (place, &label) in (0..).zip(self.texts.values()) {
            if let Some(sorted) = usize::try_from(label)
                .ok()
                .and_then(|label| sorted.get_mut(label))
            {
                *sorted = Some(place);
            }
        }
        for item in train.iter_mut().chain(validation) {
            item.label = item.label.and_then(|label| *sorted.get(label as usize)?);
        }
        self.class_names = self.texts.keys().cloned().collect();
    }

    /// Whether the labels are labels only by name: there are too many of them for so many images.
    fn labels_are_no_classes(&self, images: usize) -> bool {
        let too_many = IMAGES_OF_A_CLASS * self.texts.len() > images;
        if self.labels_are_guessed && !self.texts.is_empty() && too_many {
            return true;
        }
        let largest = usize::try_from(self.largest_label).unwrap_or(usize::MAX);
        self.labels_are_guessed && (self.largest_label >= MAX_CLASSES || largest >= images.max(1))
    }
}

/// Refuses a file that is not a table, and names its kind.
fn refuse_other_files(path: &Path, file: &File) -> Result<(), DataError> {
    let start = start_of(file).map_err(|error| DataError::reading(path, error))?;
    match Kind::of(&start) {
        Kind::Parquet | Kind::Other => Ok(()),
        kind => Err(DataError::foreign(path, kind, "a Parquet table")),
    }
}

/// Why images could not be read from a table.
enum Problem {
    Table(ParquetError),
    Keeping(io::Error),
}

/// Puts the images of a row group into the spool, and returns the place of each; `None` for a row without one.
fn read_images(
    column: ColumnReader,
    rows: usize,
    spool: &mut Spool,
) -> Result<Vec<Option<Stretch>>, Problem> {
    let ColumnReader::ByteArrayColumnReader(mut column) = column else {
        return Err(Problem::Table(ParquetError::General(
            "its images are no bytes".to_owned(),
        )));
    };
    let mut stretches = Vec::new();
    while stretches.len() < rows {
        let most = ROWS.min(rows - stretches.len());
        let images = next::<ByteArrayType>(&mut column, most).map_err(Problem::Table)?;
        if images.is_empty() {
            break;
        }
        for image in images {
            let image = image.filter(|image| !image.is_empty());
            let stretch = image.map(|image| spool.add(image.data())).transpose();
            stretches.push(stretch.map_err(Problem::Keeping)?);
        }
    }
    Ok(stretches)
}

/// The labels of a row group of `rows` rows; `None` for a row without one. New `texts` are numbered.
fn read_labels(
    column: ColumnReader,
    rows: usize,
    texts: &mut BTreeMap<String, i64>,
) -> Result<Vec<Option<i64>>, ParquetError> {
    fn all<T: DataType>(
        mut column: ColumnReaderImpl<T>,
        rows: usize,
        mut number: impl FnMut(T::T) -> i64,
    ) -> Result<Vec<Option<i64>>, ParquetError> {
        let mut labels = Vec::new();
        while labels.len() < rows {
            let some = next(&mut column, rows - labels.len())?;
            if some.is_empty() {
                break;
            }
            labels.extend(some.into_iter().map(|label| label.map(&mut number)));
        }
        Ok(labels)
    }
    match column {
        ColumnReader::Int32ColumnReader(column) => all(column, rows, i64::from),
        ColumnReader::Int64ColumnReader(column) => all(column, rows, |number| number),
        ColumnReader::ByteArrayColumnReader(column) => all(column, rows, |text| {
            let text = names::from_bytes(text.data());
            let next = texts.len() as i64;
            *texts.entry(text).or_insert(next)
        }),
        _ => Err(ParquetError::General(
            "its labels are neither integers nor text".to_owned(),
        )),
    }
}

/// The next values of a column, at most `rows`: `None` for a row without one.
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
    // Rows with a value are at the deepest level. If there are values, it is the greatest level; otherwise it makes no
    // difference.
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
mod tests;
