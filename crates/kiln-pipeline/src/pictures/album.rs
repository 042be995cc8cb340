//! Writes the pictures of one drawing side by side, without harm to existing files.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use image::{ImageFormat, ImageResult};

use super::file::{self, PictureError};
use super::gif;
use super::grid::Picture;
use super::made_folder::MadeFolder;

/// Files that belong together, still in memory.
#[derive(Default)]
pub struct Album {
    files: Vec<(String, Vec<u8>)>,
}

/// The place of an [`Album`]'s files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    folder: PathBuf,
    number: usize,
}

impl Album {
    /// Adds a picture as the PNG file `name`.
    ///
    /// # Errors
    /// [`PictureError::Write`] for a picture larger than the format allows.
    pub fn add_png(&mut self, name: &str, picture: &Picture) -> Result<(), PictureError> {
        self.add(name, png_bytes(picture))
    }

    /// Adds an animation as the GIF file `name`: see [`save_gif`](super::save_gif) and, for one that `is_loop`,
    /// [`save_looping_gif`](super::save_looping_gif).
    ///
    /// # Errors
    /// [`PictureError::Write`] for a side longer than GIF's 65,535 pixels.
    pub fn add_gif(
        &mut self,
        name: &str,
        frames: &[Picture],
        is_loop: bool,
    ) -> Result<(), PictureError> {
        self.add(name, gif::gif_bytes(frames, is_loop))
    }

    /// Adds a file that is not a picture.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push((name.to_owned(), bytes));
    }

    fn add(&mut self, name: &str, bytes: ImageResult<Vec<u8>>) -> Result<(), PictureError> {
        let bytes = bytes.map_err(|source| PictureError::Write {
            path: name.into(),
            source,
        })?;
        self.add_file(name, bytes);
        Ok(())
    }

    /// Writes all files to `folder`, and makes the folder if necessary.
    ///
    /// Existing files stay: if another file has one of the names, all names get the same number, `grid-2.png`. A file
    /// that already exists byte for byte is not written again, so the same drawing keeps its names.
    ///
    /// # Errors
    /// [`PictureError`] if the folder cannot be made or written to, or if the disk is full.
    pub fn save(&self, folder: &Path) -> Result<Saved, PictureError> {
        let _made = file::make_folder(folder)?;
        let mut saved = Saved {
            folder: folder.to_owned(),
            number: 1,
        };
        let is_free = |saved: &Saved| {
            (self.files.iter()).all(|(name, bytes)| has_room(&saved.path(name), bytes))
        };
        while !is_free(&saved) {
            saved.number += 1;
        }
        for (name, bytes) in &self.files {
            let path = saved.path(name);
            if !path.exists() {
                file::write(&path, |file| Ok(file.write_all(bytes)?))?;
            }
        }
        Ok(saved)
    }
}

impl Saved {
    /// The path of the file that was added as `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(numbered(name, self.number))
    }
}

/// A new folder `name` in `folder`, or `name-2` and so on if the name exists. Dropping the result removes the folder if
/// it is still empty.
///
/// # Errors
/// [`PictureError::Folder`] if the place is not writable.
pub fn make_new_folder(folder: &Path, name: &str) -> Result<MadeFolder, PictureError> {
    let _made = file::make_folder(folder)?;
    let mut number = 1;
    loop {
        let path = folder.join(numbered(name, number));
        match MadeFolder::make_new(path.clone()) {
            Ok(made) => return Ok(made),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => {
                return Err(PictureError::Folder {
                    folder: path,
                    source,
                });
            }
        }
    }
}

/// Whether `path` does not exist, or has exactly these `bytes`.
fn has_room(path: &Path, bytes: &[u8]) -> bool {
    let Ok(there) = fs::symlink_metadata(path) else {
        return true;
    };
    there.is_file()
        && there.len() == bytes.len() as u64
        && fs::read(path).is_ok_and(|content| content == bytes)
}

/// The name of the `number`-th file with the requested name `name`.
fn numbered(name: &str, number: usize) -> String {
    if number == 1 {
        return name.to_owned();
    }
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}-{number}.{extension}"),
        None => format!("{name}-{number}"),
    }
}

fn png_bytes(picture: &Picture) -> ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;

    fn flat(gray: u8) -> Picture {
        GrayImage::from_pixel(4, 4, Luma([gray])).into()
    }

    fn album(gray: u8, with_gif: bool) -> Album {
        let mut album = Album::default();
        album.add_png("grid.png", &flat(gray)).unwrap();
        if with_gif {
            album.add_gif("grid.gif", &[flat(gray)], false).unwrap();
        }
        album
    }

    #[test]
    fn other_pictures_get_a_number_and_the_same_ones_do_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("new");
        let first = album(1, false).save(&folder).unwrap();
        assert_eq!(first.path("grid.png"), folder.join("grid.png"));
        let before = fs::read(folder.join("grid.png")).unwrap();
        // The same picture, this time with a film.
        assert_eq!(album(1, true).save(&folder).unwrap(), first);
        let second = album(2, true).save(&folder).unwrap();
        assert_eq!(second.path("grid.png"), folder.join("grid-2.png"));
        assert_eq!(second.path("grid.gif"), folder.join("grid-2.gif"));
        assert_eq!(album(2, true).save(&folder).unwrap(), second);
        assert_eq!(fs::read(folder.join("grid.png")).unwrap(), before);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    }

    #[test]
    fn a_folder_in_the_way_stays() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("grid.png")).unwrap();
        let saved = album(1, false).save(place.path()).unwrap();
        assert!(saved.path("grid.png").ends_with("grid-2.png"));
        let new = |name| make_new_folder(place.path(), name).unwrap();
        let [first, second] = [new("images"), new("images")];
        assert!(first.path().ends_with("images") && second.path().ends_with("images-2"));
    }

    #[test]
    fn a_file_where_the_folder_should_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        let error = album(1, false).save(file.path()).unwrap_err().to_string();
        assert!(error.contains(&name), "{error}");
        let error = make_new_folder(file.path(), "images").unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
    }
}
