//! Images in Parquet files, the format of data sets on the Hugging Face Hub: a row per image, and a column with its
//! class.
//!
//! A table is read a row group at a time. Its images, still encoded, go to a separate file, because the rows of a table
//! cannot be read out of order: for a small data set once and for as long as it is used, for a large one (`stream.rs`) each
//! time the training comes to that table. The tables of a large one may be somewhere else (`remote.rs`).

mod bytes;
mod columns;
mod declared;
mod file;
pub(crate) mod images;
mod pages;
mod remote;
mod shards;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::file::{IMAGES_OF_A_CLASS, TableFile};
pub use self::remote::{RemoteTable, RemoteTables, open_remote_tables};
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
    if stream::is_wanted(tables, config) {
        return stream::open(tables, config);
    }
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
        return Err(without_rows(tables));
    }
    let images = train.len() + validation.len();
    let items = train.iter_mut().chain(&mut validation);
    rows.make_classes(&tables.name, images, &mut items.map(|item| &mut item.label));
    leave_out_unlabelled(&tables.name, &mut train, &mut validation);
    if validation.is_empty() {
        (train, validation) = hold_out(train, config.validation_fraction);
    }
    let found = Found {
        path: tables.train.first().cloned().unwrap_or_default(),
        name: tables.name.clone(),
        border: border(config),
        class_names: complete(
            &tables.name,
            rows.class_names,
            train
                .iter()
                .chain(&validation)
                .filter_map(|item| item.label),
        ),
        train,
        validation,
        skipped: Skipped::default(),
    };
    loading::load(found, config, loading::MEMORY_BUDGET, progress)
}

fn without_rows(tables: &Tables) -> DataError {
    DataError::Unusable {
        path: tables.train.first().cloned().unwrap_or_default(),
        problem: "is a Parquet table without rows: take another data set".to_owned(),
    }
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
    labels: impl Iterator<Item = u32>,
) -> Vec<String> {
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
        let table = TableFile::open(path, config)?;
        self.look_at_columns(&table);
        let kept = |error| DataError::writing(&std::env::temp_dir(), error);
        let mut spool = Spool::new().map_err(kept)?;
        let mut row = 0;
        for group in 0..table.groups() {
            let images = table.images(group, &mut spool)?;
            let mut labels = table.labels(group, images.len(), &mut self.texts)?;
            labels.resize(images.len(), None);
            for (image, label) in images.into_iter().zip(labels) {
                self.add(table.name_of(row), image, label);
                row += 1;
            }
        }
        spool.finish().map_err(kept)?;
        if row > 0 && self.items.is_empty() {
            return Err(table.unusable(format!(
                "has no images in its {row} rows, at most paths of files elsewhere: use a data set that \
                 holds its images (`push_to_hub` of Python's `datasets` writes one)"
            )));
        }
        self.refuse_too_many_classes(&table)
    }

    /// Adds only the classes of a table's rows, `None` for a row without one.
    fn read_labels(&mut self, table: &TableFile<'_>) -> Result<Vec<Option<u32>>, DataError> {
        self.look_at_columns(table);
        let mut all = Vec::with_capacity(table.rows());
        for group in 0..table.groups() {
            let rows = table.rows_of(group);
            let mut labels = table.labels(group, rows, &mut self.texts)?;
            labels.resize(rows, None);
            for label in labels {
                self.count += 1;
                all.push(self.class(label));
            }
        }
        self.refuse_too_many_classes(table)?;
        Ok(all)
    }

    /// Uses the names of a table's classes, and tells what is strange about its columns.
    fn look_at_columns(&mut self, table: &TableFile<'_>) {
        let (columns, file_name) = (&table.columns, &table.name);
        if let Some(word) = columns.word.as_ref().filter(|_| !self.columns_are_said) {
            tracing::warn!("{file_name}: {word}");
            self.columns_are_said = true;
        }
        if let Some(complaint) = &columns.complaint {
            self.say_once(file_name, complaint.clone());
        }
        if self.class_names.is_empty() {
            self.class_names.clone_from(&columns.class_names);
        } else if !columns.class_names.is_empty() && columns.class_names != self.class_names {
            let complaint =
                "it names the classes otherwise than the files before it, whose names are used";
            self.say_once(file_name, complaint.to_owned());
        }
        self.labels_are_guessed |= columns.label_is_guessed;
        if columns.label.is_none() && !self.columns_are_said && table.rows() > 0 {
            if let Some(column) = table.could_be_classes() {
                tracing::warn!(
                    "{file_name} has no classes; its column `{column}` has few texts: --set data.label_column={column} makes them classes"
                );
            }
            self.columns_are_said = true;
        }
    }

    fn refuse_too_many_classes(&self, table: &TableFile<'_>) -> Result<(), DataError> {
        if !self.labels_are_guessed && self.largest_label >= MAX_CLASSES {
            return Err(table.unusable(format!(
                "has classes up to number {}, more than {MAX_CLASSES}: they are a mistake",
                self.largest_label
            )));
        }
        Ok(())
    }

    /// The class for the label of a row.
    fn class(&mut self, label: Option<i64>) -> Option<u32> {
        self.largest_label = self.largest_label.max(label.unwrap_or(0));
        // Python's `datasets` writes -1 for an unknown class.
        let label = label.filter(|label| (0..MAX_CLASSES).contains(label));
        label.and_then(|label| u32::try_from(label).ok())
    }

    fn add(&mut self, name: String, image: Option<Stretch>, label: Option<i64>) {
        self.count += 1;
        let Some(image) = image else {
            self.without_image.get_or_insert((0, name)).0 += 1;
            return;
        };
        let label = self.class(label);
        self.items.push(Item {
            label,
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

    /// Renumbers text classes by their sorted names.
    fn sort_texts<'a>(&mut self, labels: impl Iterator<Item = &'a mut Option<u32>>) {
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
        for label in labels {
            *label = label.and_then(|label| *sorted.get(label as usize)?);
        }
        self.class_names = self.texts.keys().cloned().collect();
    }

    /// Makes the labels of all rows classes, or removes them if they cannot be classes.
    fn make_classes(
        &mut self,
        data_set: &str,
        images: usize,
        labels: &mut dyn Iterator<Item = &mut Option<u32>>,
    ) {
        if self.labels_are_no_classes(images) {
            tracing::warn!(
                "the {} in the label column of {data_set} are not classes, so they are not used",
                if self.texts.is_empty() {
                    "whole numbers"
                } else {
                    "texts"
                },
            );
            self.class_names.clear();
            labels.for_each(|label| *label = None);
        } else {
            self.sort_texts(labels);
        }
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

#[cfg(test)]
mod tests;
