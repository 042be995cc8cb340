//! One shard: a Parquet table, or a tar archive with thousands of images, as WebDataset and img2dataset write them.
//!
//! In a tar the files of a sample have the same name up to the first dot: `000123.jpg` is an image and `000123.cls` its class, a
//! whole number. Other files, such as `000123.json` and `000123.txt`, are not used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::contents::{Content, Entry, list, open_file};
use crate::digest::hexadecimal;
use crate::elsewhere::FileSource;
use crate::error::DataError;
use crate::kind::is_named_like_an_image;
use crate::names;
use crate::table::images;

/// The ending of a file with the class of its sample.
const CLASS: &str = "cls";
/// More classes than this are a mistake.
const MOST_CLASSES: u32 = 1 << 16;

/// A shard, of which only the number of images is kept.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) form: Form,
    /// Images in it.
    pub(crate) images: u32,
    /// Of the file's name and length, and of the names, lengths and classes of its images.
    pub(crate) digest: String,
}

/// What a shard is.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// A tar archive.
    Tar,
    /// A Parquet table, and the columns that are wanted.
    Table(Arc<DataConfig>, Place),
}

/// Where the file of a shard is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At its path.
    Here,
    /// In a source. The path only names it.
    Elsewhere(Elsewhere),
}

/// A shard that is somewhere else.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) source: Arc<dyn FileSource>,
    /// The file's number there.
    pub(crate) file: usize,
    /// What identifies its classes, which came without the rest.
    pub(crate) classes: String,
}

/// The images of a shard that is in use.
#[derive(Debug)]
pub(crate) struct OpenShard {
    pub(crate) images: Vec<Entry>,
}

impl Shard {
    /// Looks through the tar at `path`, and returns the class of each image besides.
    ///
    /// # Errors
    /// If it cannot be read, is damaged or has no images.
    pub(crate) fn index(path: &Path) -> Result<(Self, Vec<Option<u32>>), DataError> {
        let (shard, _, classes) = look_through(path)?;
        Ok((shard, classes))
    }

    /// The shard's file name.
    pub(crate) fn name(&self) -> String {
        names::of_path(Path::new(self.path.file_name().unwrap_or_default()))
    }

    /// Finds the places of its images again.
    ///
    /// # Errors
    /// Those of [`Self::index`]; and if it is another one now.
    pub(crate) fn open(&self) -> Result<OpenShard, DataError> {
        let (digest, images) = match &self.form {
            Form::Tar => {
                let (now, images, _) = look_through(&self.path)?;
                (Some(now.digest), images)
            }
            Form::Table(config, place) => {
                let (file, classes) = match place {
                    Place::Here => (open_file(&self.path)?.0, None),
                    Place::Elsewhere(there) => {
                        let file = there.source.open(there.file).map_err(DataError::Source)?;
                        (file, Some(there.classes.as_str()))
                    }
                };
                match images::look_through(&self.path, file, config, classes)? {
                    Some(now) => (Some(now.digest), now.images),
                    None => (None, Vec::new()),
                }
            }
        };
        if digest.as_ref() != Some(&self.digest) {
            return Err(DataError::Unusable {
                path: self.path.clone(),
                problem: "has changed since this began: do not change the data while kiln uses it"
                    .to_owned(),
            });
        }
        Ok(OpenShard { images })
    }
}

/// A shard with its images and the class of each.
type Seen = (Shard, Vec<Entry>, Vec<Option<u32>>);

fn look_through(path: &Path) -> Result<Seen, DataError> {
    let length = std::fs::metadata(path).map_err(|error| DataError::reading(path, error))?;
    let (mut images, mut classes) = (Vec::new(), BTreeMap::new());
    let refuse = |problem: String| DataError::Unusable {
        path: path.to_owned(),
        problem,
    };
    let found = list(path)?;
    if !found.skipped.is_empty() {
        tracing::warn!("{}: {}", path.display(), found.skipped);
    }
    for entry in found.entries {
        match entry.file_name().rsplit_once('.') {
            Some((_, CLASS)) => {
                let class = class_in(&entry.content)
                    .map_err(|problem| refuse(format!("{}: {problem}", entry.name)))?;
                let before = classes.insert(sample(&entry.name).to_owned(), class);
                if let Some(before) = before.filter(|&before| before != class) {
                    return Err(refuse(format!(
                        "{} has two classes, {before} and {class}",
                        sample(&entry.name)
                    )));
                }
            }
            _ if is_named_like_an_image(entry.file_name()) => images.push(entry),
            _ => {}
        }
    }
    if images.is_empty() {
        return Err(DataError::Unusable {
            path: path.to_owned(),
            problem: "has no files named like images (000123.jpg): leave it out, or fetch it again"
                .to_owned(),
        });
    }
    let classes: Vec<Option<u32>> = images
        .iter()
        .map(|image| classes.get(sample(&image.name)).copied())
        .collect();
    let mut digest = Sha256::new();
    let mut add = |name: &str, length: u64, class: Option<u32>| {
        digest.update(format!("{} {name} {length} {class:?}\n", name.len()));
    };
    let name = names::of_path(Path::new(path.file_name().unwrap_or_default()));
    add(&name, length.len(), None);
    for (image, class) in images.iter().zip(&classes) {
        let size = image.content.size();
        let size = size.map_err(|error| DataError::reading(path, error))?;
        add(&image.name, size, *class);
    }
    let shard = Shard {
        path: path.to_owned(),
        form: Form::Tar,
        images: images.len() as u32,
        digest: hexadecimal(&digest.finalize()),
    };
    Ok((shard, images, classes))
}

/// The part of a file's name that its sample's other files share.
fn sample(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[file..].find('.').map_or(name.len(), |dot| file + dot);
    &name[..dot]
}

/// The class in a file, or what is wrong with it.
fn class_in(content: &Content) -> Result<u32, String> {
    let bytes = content.read().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let class = text.trim().parse().ok();
    class.filter(|&class| class < MOST_CLASSES).ok_or_else(|| {
        let start: String = text.trim().chars().take(20).collect();
        format!("{start:?} is no class, a whole number below {MOST_CLASSES}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{Files, gzip, png};

    fn files() -> Files {
        let mut files = Files::default();
        for sample in 0..3u8 {
            files.add(&format!("00{sample}.png"), png(sample));
            files.add(
                &format!("00{sample}.cls"),
                format!("{}\n", 7 * sample).into_bytes(),
            );
            files.add(&format!("00{sample}.json"), b"{}".to_vec());
            files.add(&format!("00{sample}.txt"), b"a gray picture".to_vec());
        }
        files
    }

    #[test]
    fn images_come_by_name_with_their_classes_plain_and_gzipped() {
        let folder = tempfile::tempdir().unwrap();
        let tar = files().tar();
        for (name, bytes) in [("a.tar", tar.clone()), ("a.tar.gz", gzip(&tar))] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let (shard, classes) = Shard::index(&path).unwrap();
            assert_eq!((shard.images, shard.name().as_str()), (3, name));
            assert_eq!(classes, [Some(0), Some(7), Some(14)]);
            let open = shard.open().unwrap();
            for (gray, image) in open.images.iter().enumerate() {
                assert_eq!(image.content.read().unwrap(), png(gray as u8));
            }
        }
    }

    #[test]
    fn a_shard_that_changed_or_was_cut_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, files().tar()).unwrap();
        let (shard, _) = Shard::index(&path).unwrap();
        let mut other = files();
        other.add("002.cls", b"1".to_vec());
        std::fs::write(&path, other.tar()).unwrap();
        let problem = shard.open().unwrap_err().to_string();
        assert!(
            problem.contains("a.tar has changed since this began"),
            "{problem}"
        );
        std::fs::write(&path, &files().tar()[..1500]).unwrap();
        assert!(shard.open().unwrap_err().to_string().contains("damaged"));
        let mut none = Files::default();
        none.add("notes.txt", b"nothing".to_vec());
        std::fs::write(&path, none.tar()).unwrap();
        assert!(
            Shard::index(&path)
                .unwrap_err()
                .to_string()
                .contains("no files named like images")
        );
    }

    #[test]
    fn a_class_that_is_none_or_two_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        for (name, content, words) in [
            ("001.cls", "seven", "001.cls: \"seven\" is no class"),
            ("001.cls", "-1", "001.cls: \"-1\" is no class"),
            (
                "001.cls",
                "99999999999",
                "is no class, a whole number below",
            ),
            ("001.right.cls", "8", "has two classes"),
        ] {
            let mut damaged = files();
            // The one with another ending stands beside the first.
            damaged.add(name, content.as_bytes().to_vec());
            std::fs::write(&path, damaged.tar()).unwrap();
            let problem = Shard::index(&path).unwrap_err().to_string();
            assert!(problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn a_move_to_another_folder_changes_nothing() {
        let digests = [0, 1].map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.tar");
            std::fs::write(&path, files().tar()).unwrap();
            Shard::index(&path).unwrap().0.digest
        });
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn the_files_of_a_sample_share_its_name_up_to_the_first_dot() {
        for (name, expected) in [
            ("000.jpg", "000"),
            ("000.left.jpg", "000"),
            ("v1.2/000.jpg", "v1.2/000"),
            ("plain", "plain"),
        ] {
            assert_eq!(sample(name), expected);
        }
    }
}
