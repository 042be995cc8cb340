//! Tables that are read one after the other while a training goes on: each file is a shard.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{TableFile, rows_in};
use super::images::digest;
use super::{Rows, Tables, border, complete, without_rows};
use crate::config::DataConfig;
use crate::dataset::Datasets;
use crate::error::DataError;
use crate::loading::MEMORY_BUDGET;
use crate::shards::{Form, Indexed, Place, Shard, datasets};

/// Whether the tables are to be read while a training goes on: if the config says so or, where it says nothing, if all
/// their images would not fit into the memory that a set may have.
pub(super) fn is_wanted(tables: &Tables, config: &DataConfig) -> bool {
    if let Some(stream) = config.stream {
        return stream;
    }
    // What is no table is refused when it is read.
    let files = tables.train.iter().chain(&tables.validation);
    let rows: usize = files.filter_map(|path| rows_in(path)).sum();
    rows.saturating_mul(config.shape().elements()) > MEMORY_BUDGET
}

/// Opens a data set whose shards are tables.
pub(super) fn open(tables: &Tables, config: &DataConfig) -> Result<Datasets, DataError> {
    let mut streamed = Streamed::new(config);
    for path in tables.train.iter().chain(&tables.validation) {
        streamed.add(path, &TableFile::open(path, config)?, Place::Here)?;
    }
    streamed.finish(tables, config)
}

/// What is known of the tables so far.
pub(super) struct Streamed {
    config: Arc<DataConfig>,
    rows: Rows,
    shards: Vec<Shard>,
    /// The class of each image of each shard.
    classes: Vec<Vec<Option<u32>>>,
}

impl Streamed {
    pub(super) fn new(config: &DataConfig) -> Self {
        Self {
            config: Arc::new(config.clone()),
            rows: Rows::default(),
            shards: Vec::new(),
            classes: Vec::new(),
        }
    }

    /// Adds a table that is called `path`.
    pub(super) fn add(
        &mut self,
        path: &Path,
        table: &TableFile<'_>,
        place: Place,
    ) -> Result<(), DataError> {
        self.classes.push(self.rows.read_labels(table)?);
        self.shards.push(Shard {
            path: path.to_owned(),
            form: Form::Table(self.config.clone(), place),
            images: table.rows() as u32,
            digest: digest(table),
        });
        Ok(())
    }

    /// The data set of all tables that were added: those of `tables`, in their order.
    pub(super) fn finish(
        self,
        tables: &Tables,
        config: &DataConfig,
    ) -> Result<Datasets, DataError> {
        let Self {
            mut rows,
            shards,
            mut classes,
            ..
        } = self;
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
}
