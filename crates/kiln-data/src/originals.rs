//! What a set's images are like in their files, before they are cropped and resized.

use std::time::{Duration, Instant};

use image::{DynamicImage, GenericImageView};
use rayon::prelude::*;

use crate::dataset::ImageDataset;
use crate::undecodable::Unloaded;

/// The largest difference of a gray pixel's channels: a JPEG's are rounded.
const SHADE: u8 = 16;
/// An image with a larger share of coloured pixels is in colour.
const COLOURED: f64 = 1e-3;

/// What some of a set's images are like in their files.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Originals {
    /// How many images were looked at.
    pub looked_at: usize,
    /// How many of them could not be decoded. They do not count for the rest.
    pub damaged: usize,
    /// The first of these: what is wrong with it.
    pub first_damage: Option<String>,
    /// The median of the shorter sides, in pixels.
    pub side: usize,
    /// The shortest side of all, in pixels.
    pub shortest: usize,
    /// The longest side of all, in pixels.
    pub longest: usize,
    /// Whether no image has colours, whatever its file could hold.
    pub is_gray: bool,
    /// The time that one image took to be read and decoded, on all cores.
    pub time_of_each: Duration,
}

/// One image.
struct Original {
    width: u32,
    height: u32,
    is_gray: bool,
}

impl ImageDataset {
    /// Looks at no more than `most` of the images as they are in their files. They are spread over the set; of shards, they
    /// are the first ones.
    ///
    /// Returns `None` if the set is kept in memory ([`ImageDataset::is_decoded`]), so that its files are out of reach, or if
    /// no image can be decoded. `data.stream = true` opens a set of files otherwise.
    pub fn originals(&self, most: usize) -> Option<Originals> {
        let count = most.min(self.len());
        let place = |index: usize| match self.is_in_shards() {
            true => index,
            false => index * self.len() / count,
        };
        let began = Instant::now();
        let looked: Option<Vec<Result<Original, Unloaded>>> = (0..count)
            .into_par_iter()
            .map(|index| Some(self.original(place(index))?.map(Original::of)))
            .collect();
        let elapsed = began.elapsed();
        let (mut images, mut first_damage, mut damaged) = (Vec::new(), None, 0);
        for original in looked? {
            match original {
                Ok(original) => images.push(original),
                Err(problem) => {
                    damaged += 1;
                    first_damage.get_or_insert_with(|| problem.to_string());
                }
            }
        }
        let mut sides: Vec<u32> = images.iter().map(Original::shorter).collect();
        sides.sort_unstable();
        Some(Originals {
            looked_at: count,
            damaged,
            first_damage,
            side: *sides.get(sides.len() / 2)? as usize,
            shortest: *sides.first()? as usize,
            longest: images.iter().map(Original::longer).max()? as usize,
            is_gray: images.iter().all(|image| image.is_gray),
            time_of_each: elapsed / count.max(1) as u32,
        })
    }
}

impl Original {
    fn of(image: DynamicImage) -> Self {
        let (width, height) = image.dimensions();
        Self {
            width,
            height,
            is_gray: is_gray(&image),
        }
    }

    fn shorter(&self) -> u32 {
        self.width.min(self.height)
    }

    fn longer(&self) -> u32 {
        self.width.max(self.height)
    }
}

/// Whether nearly all pixels are gray. Many gray images are in files for colours.
fn is_gray(image: &DynamicImage) -> bool {
    if !image.color().has_color() {
        return true;
    }
    let coloured = image.pixels().filter(|(_, _, pixel)| {
        let [red, green, blue, alpha] = pixel.0;
        let most = red.max(green).max(blue);
        alpha > 0 && most - red.min(green).min(blue) > SHADE
    });
    let pixels = f64::from(image.width()) * f64::from(image.height());
    coloured.count() as f64 <= COLOURED * pixels
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, ImageFormat, RgbImage};

    use super::*;
    use crate::examples::{self, Files};
    use crate::{DataConfig, DatasetKind, NoProgress, open};

    fn opened(files: &Files, stream: bool) -> ImageDataset {
        let folder = files.folder();
        let config = DataConfig {
            path: Some(folder.path().to_owned()),
            stream: Some(stream),
            max_undecodable: 1.0,
            ..DataConfig::new(DatasetKind::Folder, 8, 3)
        };
        let train = open(&config, &NoProgress).unwrap().train;
        let originals = train.originals(100);
        assert_eq!(originals.is_some(), stream);
        // The files go away with the folder.
        std::mem::forget(folder);
        train
    }

    #[test]
    fn sizes_colours_and_damage_are_seen() {
        let mut files = Files::default();
        for number in 0..9 {
            files.add(&format!("{number}.png"), examples::png(number));
        }
        // Gray in a file for colours, 10 x 9.
        let gray = opened(&files, true).originals(100).unwrap();
        assert_eq!((gray.side, gray.shortest, gray.longest), (9, 9, 10));
        assert!(gray.is_gray && gray.damaged == 0 && gray.looked_at == 8);
        opened(&files, false);

        for number in 9..20 {
            let colourful = examples::encode(ImageFormat::Png, 40, 60);
            files.add(&format!("{number:02}.png"), colourful);
        }
        files.add("a.png", examples::png(3)[..40].to_vec());
        files.add("b.png", b"no image".to_vec());
        let mixed = opened(&files, true).originals(100).unwrap();
        assert!(!mixed.is_gray && mixed.damaged >= 1);
        assert_eq!((mixed.shortest, mixed.longest), (9, 60));
        assert!(mixed.first_damage.is_some());
        assert_eq!(opened(&files, true).originals(3).unwrap().looked_at, 3);
    }

    #[test]
    fn shards_are_looked_at_from_the_first() {
        let folder = tempfile::tempdir().unwrap();
        for shard in 0..3 {
            let mut files = Files::default();
            for number in 0..5 {
                files.add(&format!("{number}.png"), examples::png(shard));
            }
            std::fs::write(folder.path().join(format!("{shard}.tar")), files.tar()).unwrap();
        }
        let config = DataConfig {
            path: Some(folder.path().to_owned()),
            ..DataConfig::new(DatasetKind::Folder, 8, 3)
        };
        let train = open(&config, &NoProgress).unwrap().train;
        let seen = train.originals(4).unwrap();
        assert_eq!((seen.looked_at, seen.damaged, seen.side), (4, 0, 9));
    }

    #[test]
    fn a_tinted_speck_does_not_make_a_colour_image() {
        let mut image = RgbImage::from_pixel(100, 100, [90, 95, 92].into());
        image.put_pixel(3, 3, [200, 0, 0].into());
        assert!(is_gray(&image.clone().into()));
        for x in 0..50 {
            image.put_pixel(x, 3, [200, 0, 0].into());
        }
        assert!(!is_gray(&image.into()));
        assert!(is_gray(&GrayImage::new(4, 4).into()));
    }
}
