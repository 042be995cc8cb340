//! Paths that mean the same wherever a run goes on from.

use std::path::{Path, PathBuf};

use kiln_data::DataConfig;

use crate::experiment::is_on_the_hub;

/// Where the data of `config` lies. A path that means nothing here may have been written in another working folder, for which
/// the run so far may know it.
pub(crate) fn find_data(
    config: &DataConfig,
    known: impl FnOnce() -> Option<PathBuf>,
) -> DataConfig {
    let is_lost = |path: &PathBuf| path.is_relative() && !is_on_the_hub(path) && !path.exists();
    let found = config.path.as_ref().filter(|path| is_lost(path));
    let found = found.and_then(|_| known()).filter(|known| known.exists());
    DataConfig {
        path: found.or_else(|| config.path.clone()),
        ..config.clone()
    }
}

/// A path that means the same from any working folder, where JSON can hold it.
pub(crate) fn absolute(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.to_str().is_some().then_some(path)
}
