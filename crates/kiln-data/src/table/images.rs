//! The images of one table, when it is its turn to be read.

use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::file::TableFile;
use crate::config::DataConfig;
use crate::contents::{Content, Entry, Spool};
use crate::digest::hexadecimal;
use crate::error::DataError;

/// A table that was looked through.
pub(crate) struct Seen {
    /// What identifies it.
    pub(crate) digest: String,
    /// Its images, in a temporary file. A row without one is empty.
    pub(crate) images: Vec<Entry>,
}

/// Looks through the table in a `file` that is called `path`. `None` if it must have the `classes` with this digest, and
/// has others.
pub(crate) fn look_through(
    path: &Path,
    file: File,
    config: &DataConfig,
    classes: Option<&str>,
) -> Result<Option<Seen>, DataError> {
    let kept = |error| DataError::writing(&std::env::temp_dir(), error);
    let table = TableFile::in_file(path, file, config)?;
    if let Some(classes) = classes
        && table.digest_of_labels()? != classes
    {
        return Ok(None);
    }
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
    Ok(Some(Seen {
        digest: digest(&table),
        images,
    }))
}

/// Of the file's name and length, and of its row groups with the lengths of their columns.
pub(super) fn digest(table: &TableFile<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(format!(
        "{} {} {}\n",
        table.name.len(),
        table.name,
        table.length()
    ));
    for group in table.lengths() {
        digest.update(format!("{group:?}\n"));
    }
    hexadecimal(&digest.finalize())
}
