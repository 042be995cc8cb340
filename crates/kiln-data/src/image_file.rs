//! A single image file, outside of any data set: the user's input for a trained model.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat};

use crate::contents::{MAX_FILE_BYTES, read_at_most};
use crate::decode::{decode, fit};
use crate::error::DataError;
use crate::image_shape::ImageShape;
use crate::kind::{Kind, START};
use crate::regular_file::open_regular;

/// A decoded image file of any size: PNG, JPEG, WebP, BMP, GIF (its first frame), TIFF or PNM, turned according to its
/// EXIF data.
#[derive(Clone, Debug)]
pub struct ImageFile {
    path: PathBuf,
    format: ImageFormat,
    image: DynamicImage,
}

impl ImageFile {
    /// Reads and decodes the file at `path`.
    ///
    /// # Errors
    /// [`DataError::NoFile`] if it is missing, [`DataError::Read`] if the system does not let it be read, and
    /// [`DataError::ImageFile`] if it is not an image.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let problem = |reason| DataError::ImageFile {
            path: path.to_owned(),
            reason,
        };
        let (bytes, format) = read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => DataError::NoFile(path.to_owned()),
            ErrorKind::Other => problem(error.to_string()),
            _ => DataError::reading(path, error),
        })?;
        Ok(Self {
            path: path.to_owned(),
            format,
            image: decode(&bytes).map_err(problem)?,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The usual extension of this format, such as `png`, whatever this file's name is.
    pub fn extension(&self) -> &'static str {
        self.format
            .extensions_str()
            .first()
            .copied()
            .unwrap_or("png")
    }

    /// Pixels from left to right.
    pub fn width(&self) -> usize {
        self.image.width() as usize
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> usize {
        self.image.height() as usize
    }

    /// The image in `shape`, `[channels, height, width]` in [-1, 1], as in data sets: the largest centred part with the
    /// shape's proportions, resized bicubically with antialiasing; colours become gray or gray becomes three equal
    /// channels.
    ///
    /// # Errors
    /// [`DataError::ImageFile`] if there is not enough memory to resize it.
    pub fn fit(&self, shape: ImageShape) -> Result<Vec<f32>, DataError> {
        let bytes = fit(self.image.clone(), shape, 0).map_err(|reason| DataError::ImageFile {
            path: self.path.clone(),
            reason,
        })?;
        Ok(bytes
            .into_iter()
            .map(|byte| f32::from(byte) / 127.5 - 1.0)
            .collect())
    }
}

/// Reads a file completely if it begins like an image, otherwise only the beginning.
fn read(path: &Path) -> io::Result<(Vec<u8>, ImageFormat)> {
    let mut file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(START as u64).read_to_end(&mut bytes)?;
    let format = match Kind::of(&bytes) {
        Kind::Image(format) => format,
        kind => return Err(io::Error::other(kind.in_place_of_an_image())),
    };
    bytes.append(&mut read_at_most(file, MAX_FILE_BYTES)?);
    Ok((bytes, format))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::examples;

    #[test]
    fn any_image_is_brought_to_the_shape() {
        let folder = tempfile::tempdir().unwrap();
        for format in examples::FORMATS {
            let path = folder.path().join("picture");
            fs::write(&path, examples::encode(format, 20, 10)).unwrap();
            let file = ImageFile::open(&path).unwrap();
            assert_eq!((file.width(), file.height()), (20, 10), "{format:?}");
            assert_eq!(ImageFormat::from_extension(file.extension()), Some(format));
            for channels in [1, 3] {
                let shape = ImageShape {
                    channels,
                    height: 6,
                    width: 8,
                };
                let pixels = file.fit(shape).unwrap();
                assert_eq!(pixels.len(), shape.elements());
                assert!(pixels.iter().all(|pixel| (-1.0..=1.0).contains(pixel)));
            }
        }
    }

    #[test]
    fn what_is_no_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.png");
        fs::write(&text, "no image").unwrap();
        for path in [
            text,
            folder.path().join("nowhere.png"),
            folder.path().join("notes.png/within.png"),
            folder.path().to_owned(),
        ] {
            let message = ImageFile::open(&path).unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
            let is_there = path.exists();
            assert_eq!(message.contains("give a PNG"), is_there, "{message}");
            assert_eq!(message.contains("there is no file"), !is_there, "{message}");
        }
    }
}
