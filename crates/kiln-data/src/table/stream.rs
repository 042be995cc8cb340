//! Tables that are read one after the other while a training goes on: each file is a shard.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::file::TableFile;
use super::{Rows, Tables, border, complete, without_rows};
use crate::config::DataConfig;
use crate::contents::{Content, Entry, Spool};
use crate::dataset::Datasets;
use crate::digest::hexadecimal;
use crate::error::DataError;
use crate::loading::MEMORY_BUDGET;
use crate::shards::{Form, Indexed, Shard, datasets};

/// Whether the tables are to be read while a training goes on: if the config says so or, where it says nothing, if all
/// their images would not fit into the memory that a set may have.
pub(super) fn is_wanted(tables: &Tables, config: &DataConfig) -> Result<bool, DataError> {
    if let Some(stream) = config.stream {
        return Ok(stream);
    }
    let mut rows = 0usize;
    for path in tables.train.iter().chain(&tables.validation) {
        rows += TableFile::open(path, config)?.rows();
    }
    Ok(rows.saturating_mul(config.shape().elements()) > MEMORY_BUDGET)
}

/// Opens a data set whose shards are tables.
pub(super) fn open(tables: &Tables, config: &DataConfig) -> Result<Datasets, DataError> {
    let mut rows = Rows::default();
    let (mut shards, mut classes) = (Vec::new(), Vec::new());
    let form = Form::Table(Arc::new(config.clone()));
    for path in tables.train.iter().chain(&tables.validation) {
        let table = TableFile::open(path, config)?;
        classes.push(rows.read_labels(&table)?);
        shards.push(Shard {
            path: path.clone(),
            form: form.clone(),
            images: table.rows() as u32,
            digest: digest(&table),
        });
    }
    if rows.count == 0 {
        return Err(without_rows(tables));
    }
    let count = rows.count;
    rows.make_classes(&tables.name, count, &mut classes.iter_mut().flatten());
    let labels = classes.iter().flatten().copied().flatten();
    let class_names = complete(&tables.name, rows.class_names, labels);
    datasets(
        Indexed {
            path: tables.train.first().map_or_else(PathBuf::new, Clone::clone),
            name: tables.name.clone(),
            border: border(config),
            of_training: tables.train.len(),
            shards,
            classes,
            class_names,
        },
        config,
    )
}

/// The images of the table at `path`, in a temporary file. A row without one is empty.
pub(crate) fn images_of(path: &Path, config: &DataConfig) -> Result<Vec<Entry>, DataError> {
    let kept = |error| DataError::writing(&std::env::temp_dir(), error);
    let table = TableFile::open(path, config)?;
    let mut spool = Spool::new().map_err(kept)?;
    let nothing = spool.add(&[]).map_err(kept)?;
    let mut images = Vec::with_capacity(table.rows());
    for group in 0..table.groups() {
        for stretch in table.images(group, &mut spool)? {
            images.push(Entry {
                name: table.name_of(images.len()),
                content: Content::Stretch(stretch.unwrap_or_else(|| nothing.clone())),
            });
        }
    }
    spool.finish().map_err(kept)?;
    Ok(images)
}

/// What identifies the table at `path`.
pub(crate) fn digest_of(path: &Path, config: &DataConfig) -> Result<String, DataError> {
    Ok(digest(&TableFile::open(path, config)?))
}

/// Of the file's name and length, and of its row groups with the lengths of their columns.
fn digest(table: &TableFile<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(format!(
        "{} {} {}\n",
        table.name.len(),
        table.name,
        table.length
    ));
    for group in table.lengths() {
        digest.update(format!("{group:?}\n"));
    }
    hexadecimal(&digest.finalize())
}
