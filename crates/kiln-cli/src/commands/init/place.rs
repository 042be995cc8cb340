//! The file that an experiment is written to.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::look::Look;

/// Refuses a place where no file can be written, before any work.
pub fn check(out: &Path, may_replace: bool) -> anyhow::Result<()> {
    let place = out.display();
    ensure!(
        !out.is_dir(),
        "{place} is a folder: name the file to write, as in --out {place}/experiment.toml"
    );
    ensure!(
        may_replace || out.symlink_metadata().is_err(),
        "{place} exists already: choose another file with --out, or replace it with --force"
    );
    let folder = folder_of(out);
    ensure!(
        folder.is_dir(),
        "there is no folder {} for {place}: make it, or choose another place with --out",
        folder.display()
    );
    Ok(())
}

fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The data set's name and .toml, in the current folder.
pub fn by_default(look: &Look, images: &Path) -> PathBuf {
    let named = |path: &Path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let name = match look.data.path.as_deref() {
        Some(path) if path == images => named(path).unwrap_or_default(),
        _ => look.data.dataset.to_string(),
    };
    // What follows a brace or a colon says which part of the data it is.
    let name = name.split(['{', ':']).next().unwrap_or_default();
    let plain = |letter: char| match letter.is_alphanumeric() || "-_.".contains(letter) {
        true => letter,
        false => '-',
    };
    let name: String = name.chars().map(plain).collect();
    match name.trim_matches(['-', '_', '.']) {
        "" => "experiment.toml".into(),
        name => format!("{name}.toml").into(),
    }
}

#[cfg(test)]
mod tests {
    use kiln_data::{DataConfig, DatasetKind};

    use super::*;

    #[test]
    fn a_file_is_named_after_its_data() {
        let place = |path: &str| {
            let mut look = Look::of_side(32);
            look.data = DataConfig {
                path: Some(path.into()),
                ..DataConfig::new(DatasetKind::Folder, 32, 1)
            };
            by_default(&look, Path::new(path)).display().to_string()
        };
        for (path, expected) in [
            ("my photos/", "my-photos.toml"),
            ("data/shard-{000..099}.tar", "shard.toml"),
            ("hf:ada/cats:train", "cats.toml"),
            ("archive.tar", "archive.toml"),
            ("/", "experiment.toml"),
        ] {
            assert_eq!(place(path), expected, "{path}");
        }
        let look = Look::of_side(28);
        assert_eq!(
            by_default(&look, Path::new("MNIST-10k")),
            Path::new("mnist-10k.toml")
        );
    }
}
