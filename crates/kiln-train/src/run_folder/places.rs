//! Paths that stay valid in any working folder.

use std::path::{Path, PathBuf};

use kiln_data::{DataConfig, is_on_the_hub};

/// The place of the data of `config`. A path that does not exist here may be relative to another working folder; the
/// run so far may know the absolute path.
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

/// The absolute path, if JSON can represent it.
pub(crate) fn absolute(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.to_str().is_some().then_some(path)
}
