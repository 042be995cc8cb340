//! Writes a picture file so that it is either complete or absent.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use image::{ImageError, ImageResult};
use thiserror::Error;

use super::made_folder::MadeFolder;

/// Why a picture was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The folder for the picture cannot be made.
    #[error("cannot make the folder {}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written: no permission, a full disk, or a picture larger than the format allows.
    #[error("cannot write the picture {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system or the encoder.
        source: ImageError,
    },
}

/// Makes a folder for pictures, and its parent folders. Dropping the result removes the new ones if they are still
/// empty.
///
/// # Errors
/// [`PictureError::Folder`] if something else is there or the place is not writable.
pub fn make_folder(folder: &Path) -> Result<MadeFolder, PictureError> {
    MadeFolder::make(folder).map_err(|source| PictureError::Folder {
        folder: folder.to_path_buf(),
        source,
    })
}

/// Fills a new file at `path` with `encode`: makes its folder, writes to a temporary name beside it, and renames it.
pub(crate) fn write(
    path: &Path,
    encode: impl FnOnce(&mut BufWriter<File>) -> ImageResult<()>,
) -> Result<(), PictureError> {
    let _made = path.parent().map(make_folder).transpose()?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".partial");
    let temporary = PathBuf::from(temporary);

    fill(&temporary, encode)
        .and_then(|()| Ok(fs::rename(&temporary, path)?))
        .map_err(|source| {
            // Best effort: the returned error is the one that matters.
            let _ = fs::remove_file(&temporary);
            PictureError::Write {
                path: path.to_path_buf(),
                source,
            }
        })
}

fn fill(
    path: &Path,
    encode: impl FnOnce(&mut BufWriter<File>) -> ImageResult<()>,
) -> ImageResult<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    encode(&mut writer)?;
    // Flush here, because a full disk may show only now, and a drop would lose the error.
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_behind_and_keeps_the_old_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        fs::write(&path, "the old one").unwrap();
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = write(&path, |writer| {
            writer.write_all(b"half")?;
            Err(full().into())
        });
        assert!(error.unwrap_err().to_string().contains(&full().to_string()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "the old one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
