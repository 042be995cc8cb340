//! `--files`: every image as a separate file, for programs that take folders of images.

use std::path::Path;

use clap::Args;
use kiln::Error;
use kiln::pictures::{Images, MadeFolder, enlarged, make_new_folder, picture, save_png};

use super::drawing::PICTURES;
use super::numbers::whole;

/// Whether images are written one by one.
#[derive(Args)]
pub struct FileArguments {
    /// Write every image as a numbered PNG file instead of a grid; --count has no limit then
    #[arg(long, help_heading = PICTURES, conflicts_with = "film")]
    pub files: bool,

    /// Enlarge each of these files so many times
    #[arg(long, help_heading = PICTURES, default_value_t = 1, value_name = "FACTOR", requires = "files", value_parser = whole::<u32>(1..=64, 1))]
    pub scale: u32,
}

/// A folder of images that are being drawn, class after class.
pub struct ImageFiles {
    folder: MadeFolder,
    scale: u32,
    /// The names of the classes; empty if there are no classes.
    names: Vec<String>,
    /// Images of each class.
    count: usize,
    written: usize,
}

impl ImageFiles {
    /// Makes a new folder `name` in `out`, for `count` images of each of the classes `names`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn begin(
        out: &Path,
        name: &str,
        scale: u32,
        names: Vec<String>,
        count: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            folder: make_new_folder(out, name)?,
            scale,
            names,
            count,
            written: 0,
        })
    }

    /// Writes the next images.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub fn write(&mut self, images: &Images) -> Result<(), Error> {
        for image in 0..images.len() {
            let class = self.names.get(self.written / self.count.max(1));
            let class = class.map_or_else(String::new, |name| format!("-{}", plain(name)));
            let path = self
                .folder
                .path()
                .join(format!("{:06}{class}.png", self.written));
            save_png(&enlarged(&picture(images, image), self.scale), &path)?;
            self.written += 1;
        }
        Ok(())
    }

    /// The folder of the images.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A name that every file system and shell accepts.
fn plain(name: &str) -> String {
    let letters = name.chars().take(40);
    letters
        .map(|letter| match letter {
            letter if letter.is_ascii_alphanumeric() => letter,
            _ => '-',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_and_named_by_class() {
        let place = tempfile::tempdir().unwrap();
        let names = vec!["a/rose".to_owned(), "7".to_owned()];
        let mut files = ImageFiles::begin(place.path(), "steps-0002", 3, names, 2).unwrap();
        let mut images = Images::empty(1, 1, 2);
        images.extend(&[0.0; 6]);
        files.write(&images).unwrap();
        files.write(&images.first(1)).unwrap();
        for name in ["000000-a-rose", "000001-a-rose", "000002-7", "000003-7"] {
            let path = files.folder().join(format!("{name}.png"));
            assert_eq!(
                image::open(&path).unwrap().into_luma8().dimensions(),
                (6, 3)
            );
        }
        let again = ImageFiles::begin(place.path(), "steps-0002", 1, Vec::new(), 2).unwrap();
        assert!(again.folder().ends_with("steps-0002-2"));
    }
}
