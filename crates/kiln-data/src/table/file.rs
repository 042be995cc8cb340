//! One Parquet file: the images and labels of its rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use sha2::{Digest, Sha256};

use super::bytes::TableBytes;
use super::columns::Columns;
use super::pages;
use crate::config::DataConfig;
use crate::contents::{Spool, Stretch, open_file, start_of};
use crate::digest::hexadecimal;
use crate::error::DataError;
use crate::kind::Kind;
use crate::names;

/// Images per read: some megabytes of photographs.
const ROWS: usize = 64;
/// Texts are classes if there are at least this many images for each.
pub(super) const IMAGES_OF_A_CLASS: usize = 2;
/// Rows to check whether a column of texts could hold classes.
const SEEN: usize = 4096;

/// A Parquet file whose columns are known.
pub(super) struct TableFile<'a> {
    path: &'a Path,
    bytes: TableBytes,
    reader: SerializedFileReader<TableBytes>,
    pub(super) columns: Columns,
    /// The file's name.
    pub(super) name: String,
}

impl<'a> TableFile<'a> {
    /// The table at `path`, whose pages claim no more than they can hold.
    pub(super) fn open(path: &'a Path, config: &DataConfig) -> Result<Self, DataError> {
        let (file, _) = open_file(path)?;
        Self::in_file(path, file, config)
    }

    /// The same in an open file, which is called `path`.
    pub(super) fn in_file(
        path: &'a Path,
        file: File,
        config: &DataConfig,
    ) -> Result<Self, DataError> {
        refuse_other_files(path, &file)?;
        let table = Self::unchecked(path, TableBytes::Whole(Arc::new(file)), config)?;
        table.check_pages(Some(table.columns.image))?;
        table.check_pages(table.columns.label)?;
        Ok(table)
    }

    /// A table of which the footer is here.
    pub(super) fn unchecked(
        path: &'a Path,
        bytes: TableBytes,
        config: &DataConfig,
    ) -> Result<Self, DataError> {
        let reader = SerializedFileReader::new(bytes.clone());
        let reader = reader.map_err(|error| damaged(path, &error))?;
        let columns = Columns::find(&reader, config).map_err(|problem| DataError::Unusable {
            path: path.to_owned(),
            problem,
        })?;
        Ok(Self {
            path,
            bytes,
            reader,
            columns,
            name: names::of_path(Path::new(path.file_name().unwrap_or_default())),
        })
    }

    /// Refuses a page of a column that claims more than it can hold.
    pub(super) fn check_pages(&self, leaf: Option<usize>) -> Result<(), DataError> {
        match leaf {
            Some(leaf) if self.rows() > 0 => {
                pages::check(self.path, &self.bytes, &self.reader, leaf)
            }
            _ => Ok(()),
        }
    }

    /// Where a column is in the file.
    pub(super) fn places_of(&self, leaf: Option<usize>) -> Result<Vec<Range<u64>>, DataError> {
        let Some(leaf) = leaf.filter(|_| self.rows() > 0) else {
            return Ok(Vec::new());
        };
        let groups = self.reader.metadata().row_groups().iter();
        let places = groups.map(|group| pages::place_of(self.path, self.length(), group, leaf));
        places.filter_map(Result::transpose).collect()
    }

    /// Of the packed bytes of the classes.
    pub(super) fn digest_of_labels(&self) -> Result<String, DataError> {
        let mut digest = Sha256::new();
        for Range { start, end } in self.places_of(self.columns.label)? {
            let bytes = self.bytes.get_bytes(start, (end - start) as usize);
            digest.update(bytes.map_err(|error| damaged(self.path, &error))?);
        }
        Ok(hexadecimal(&digest.finalize()))
    }

    /// The file's length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.bytes.len()
    }

    pub(super) fn unusable(&self, problem: String) -> DataError {
        DataError::Unusable {
            path: self.path.to_owned(),
            problem,
        }
    }

    pub(super) fn rows(&self) -> usize {
        let rows = self.reader.metadata().file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// The name of a row for messages.
    pub(super) fn name_of(&self, row: usize) -> String {
        format!("row {row} of {}", self.name)
    }

    /// How many row groups there are.
    pub(super) fn groups(&self) -> usize {
        self.reader.num_row_groups()
    }

    pub(super) fn rows_of(&self, group: usize) -> usize {
        let rows = self.reader.metadata().row_group(group).num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// The rows of each row group, and the packed length of each of its columns.
    pub(super) fn lengths(&self) -> impl Iterator<Item = (i64, Vec<i64>)> {
        let groups = self.reader.metadata().row_groups().iter();
        groups.map(|group| {
            let columns = group
                .columns()
                .iter()
                .map(|column| column.compressed_size());
            (group.num_rows(), columns.collect())
        })
    }

    /// Puts the images of a row group into the spool, and returns the place of each; `None` for a row without one.
    pub(super) fn images(
        &self,
        group: usize,
        spool: &mut Spool,
    ) -> Result<Vec<Option<Stretch>>, DataError> {
        let rows = self.rows_of(group);
        let column = self.column(group, self.columns.image)?;
        read_images(column, rows, spool).map_err(|problem| match problem {
            Problem::Table(error) => damaged(self.path, &error),
            Problem::Keeping(error) => DataError::writing(&std::env::temp_dir(), error),
        })
    }

    /// The labels of the first `rows` rows of a group; `None` for a row without one. New `texts` are numbered.
    pub(super) fn labels(
        &self,
        group: usize,
        rows: usize,
        texts: &mut BTreeMap<String, i64>,
    ) -> Result<Vec<Option<i64>>, DataError> {
        let Some(label) = self.columns.label else {
            return Ok(Vec::new());
        };
        let column = self.column(group, label)?;
        read_labels(column, rows, texts).map_err(|error| damaged(self.path, &error))
    }

    /// A column of texts that could be classes.
    pub(super) fn could_be_classes(&self) -> Option<&str> {
        let group = self.reader.get_row_group(0).ok()?;
        let mut texts = self.columns.texts.iter();
        let could_be = texts.find(|(leaf, _)| {
            let mut found = BTreeMap::new();
            let labels = group
                .get_column_reader(*leaf)
                .and_then(|column| read_labels(column, SEEN, &mut found));
            let count = labels.map_or(0, |labels| labels.len());
            found.len() > 1 && count >= IMAGES_OF_A_CLASS * found.len()
        });
        could_be.map(|(_, column)| column.as_str())
    }

    fn column(&self, group: usize, leaf: usize) -> Result<ColumnReader, DataError> {
        let group = self.reader.get_row_group(group);
        let column = group.and_then(|group| group.get_column_reader(leaf));
        column.map_err(|error| damaged(self.path, &error))
    }
}

/// How many rows the table at `path` says that it has, if it is one.
pub(super) fn rows_in(path: &Path) -> Option<usize> {
    let (file, _) = open_file(path).ok()?;
    let reader = SerializedFileReader::new(file).ok()?;
    usize::try_from(reader.metadata().file_metadata().num_rows()).ok()
}

fn damaged(path: &Path, error: &ParquetError) -> DataError {
    DataError::Damaged {
        path: path.to_owned(),
        reason: format!("it cannot be read as a Parquet table ({error})"),
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
