//! Many images as one: a grid with thin lines between them.

use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, imageops::FilterType};

use super::file::{self, PictureError};
use super::images::Images;

/// Pixels between two images, and around them all.
const GAP: usize = 2;
/// The gray of the gaps: visible beside black and white images alike.
pub(super) const GAP_BYTE: u8 = 96;

/// A finished picture: 8-bit gray or RGB.
pub type Picture = DynamicImage;

/// The number of columns, at least 1, for an approximately square grid of `count` images.
pub fn columns_for(count: usize) -> usize {
    (1..=count)
        .find(|columns| columns * columns >= count)
        .unwrap_or(1)
}

/// Lays images out row by row, `columns` in each row, with gaps between them. Unused places keep the gap's gray.
///
/// A grid is `columns * (width + 2) + 2` pixels wide and `rows * (height + 2) + 2` high.
pub fn grid(images: &Images, columns: usize) -> Picture {
    let columns = columns.max(1);
    let rows = images.len().div_ceil(columns);
    lay_out(images, rows, columns, |row, column| {
        (images, row * columns + column)
    })
}

/// One of the images, pixel for pixel. An index that is too large gives the gap's gray.
pub fn picture(images: &Images, index: usize) -> Picture {
    let byte = |x: u32, y: u32, channel: usize| {
        let byte = images.byte(index, channel, y as usize, x as usize);
        byte.unwrap_or(GAP_BYTE)
    };
    paint(images.channels(), images.width(), images.height(), byte)
}

/// A picture `factor` times as wide and as high, each pixel as a square.
pub fn enlarged(picture: &Picture, factor: u32) -> Picture {
    if factor <= 1 {
        return picture.clone();
    }
    let (width, height) = (picture.width() * factor, picture.height() * factor);
    picture.resize_exact(width, height, FilterType::Nearest)
}

/// Like [`grid`], with a row of `lower` images under each row of `upper` ones: reconstructions under their originals.
pub fn paired_grid(upper: &Images, lower: &Images, columns: usize) -> Picture {
    stacked_grid(&[upper, lower], columns)
}

/// Like [`grid`], with a row of each of the `layers` under each row of the first: all have the same shape.
pub fn stacked_grid(layers: &[&Images], columns: usize) -> Picture {
    let columns = columns.max(1);
    let Some(first) = layers.first() else {
        return grid(&Images::empty(1, 0, 0), columns);
    };
    let rows = layers.len() * first.len().div_ceil(columns);
    lay_out(first, rows, columns, |row, column| {
        let (block, layer) = (row / layers.len(), row % layers.len());
        (layers[layer], block * columns + column)
    })
}

/// A grid of images with the shape of `shape`; `place` gives the image in a row and column.
fn lay_out<'a>(
    shape: &Images,
    rows: usize,
    columns: usize,
    place: impl Fn(usize, usize) -> (&'a Images, usize),
) -> Picture {
    let (cell_height, cell_width) = (shape.height() + GAP, shape.width() + GAP);
    let byte = |x: u32, y: u32, channel: usize| -> u8 {
        // A cell is an image with the gap to its left and above it.
        let (x, y) = (x as usize, y as usize);
        let (row, column) = (y / cell_height, x / cell_width);
        let inside = (y % cell_height)
            .checked_sub(GAP)
            .zip((x % cell_width).checked_sub(GAP));
        let in_image = inside
            .filter(|_| row < rows && column < columns)
            .and_then(|(top, left)| {
                let (images, index) = place(row, column);
                images.byte(index, channel, top, left)
            });
        in_image.unwrap_or(GAP_BYTE)
    };
    let width = columns * cell_width + GAP;
    paint(shape.channels(), width, rows * cell_height + GAP, byte)
}

/// A picture from `byte`, which gives the value for a column, a row and a channel.
fn paint(
    channels: usize,
    width: usize,
    height: usize,
    byte: impl Fn(u32, u32, usize) -> u8,
) -> Picture {
    let (width, height) = (width as u32, height as u32);
    match channels {
        1 => GrayImage::from_fn(width, height, |x, y| Luma([byte(x, y, 0)])).into(),
        _ => RgbImage::from_fn(width, height, |x, y| {
            Rgb([byte(x, y, 0), byte(x, y, 1), byte(x, y, 2)])
        })
        .into(),
    }
}

/// Writes a picture as PNG, under a temporary name until it is complete.
///
/// # Errors
/// [`PictureError`] if the folder cannot be made or written to, or if the disk is full.
pub fn save_png(picture: &Picture, path: &Path) -> Result<(), PictureError> {
    file::write(path, |writer| picture.write_to(writer, ImageFormat::Png))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(channels: usize, values: &[f32]) -> Images {
        let mut images = Images::empty(channels, 2, 3);
        for &value in values {
            images.extend(&vec![value; channels * 6]);
        }
        images
    }

    #[test]
    fn grids_are_about_square() {
        assert_eq!(
            [0, 1, 2, 4, 5, 9, 10, 64].map(columns_for),
            [1, 1, 2, 2, 3, 3, 4, 8]
        );
    }

    #[test]
    fn images_lie_row_by_row_between_gaps() {
        let picture = grid(&flat(1, &[-1.0, 0.0, 1.0]), 2).into_luma8();
        assert_eq!(picture.dimensions(), (2 * (3 + 2) + 2, 2 * (2 + 2) + 2));
        let at = |x, y| picture.get_pixel(x, y).0[0];
        assert_eq!(
            (at(0, 0), at(1, 3), at(5, 2)),
            (GAP_BYTE, GAP_BYTE, GAP_BYTE)
        );
        assert_eq!((at(2, 2), at(4, 3), at(7, 2), at(2, 6)), (0, 0, 128, 255));
        assert_eq!(
            (at(7, 6), at(11, 9)),
            (GAP_BYTE, GAP_BYTE),
            "the fourth place is empty"
        );
    }

    #[test]
    fn pairs_stand_one_under_the_other_in_every_row() {
        let (upper, lower) = (flat(1, &[-1.0, -1.0, -1.0]), flat(1, &[1.0, 1.0, 1.0]));
        let picture = paired_grid(&upper, &lower, 2).into_luma8();
        assert_eq!(picture.dimensions(), (12, 4 * 4 + 2));
        let column = |x: u32| [2, 6, 10, 14].map(|y| picture.get_pixel(x, y).0[0]);
        assert_eq!(column(2), [0, 255, 0, 255]);
        assert_eq!(column(7), [0, 255, GAP_BYTE, GAP_BYTE]);
    }

    #[test]
    fn one_image_is_shown_without_gaps() {
        let images = flat(1, &[-1.0, 1.0]);
        let white = picture(&images, 1).into_luma8();
        assert_eq!(
            (white.dimensions(), white.into_raw()),
            ((3, 2), vec![255; 6])
        );
        assert_eq!(picture(&images, 2).into_luma8().into_raw(), [GAP_BYTE; 6]);
    }

    #[test]
    fn enlarged_pixels_are_squares() {
        let small = picture(&flat(1, &[0.3]), 0);
        let mut two = small.clone().into_luma8();
        two.put_pixel(1, 0, Luma([9]));
        let large = enlarged(&two.clone().into(), 3).into_luma8();
        assert_eq!(large.dimensions(), (9, 6));
        for (x, y, pixel) in large.enumerate_pixels() {
            assert_eq!(pixel, two.get_pixel(x / 3, y / 3));
        }
        assert_eq!(enlarged(&small, 1), small);
    }

    #[test]
    fn three_channels_are_red_green_blue() {
        let mut images = Images::empty(3, 1, 1);
        images.extend(&[-1.0, 0.0, 1.0]);
        assert_eq!(
            grid(&images, 1).into_rgb8().get_pixel(2, 2).0,
            [0, 128, 255]
        );
    }

    #[test]
    fn a_saved_picture_reads_back_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/grid.png");
        let picture = grid(&flat(1, &[0.3, -0.2]), 2);
        save_png(&picture, &path).unwrap();
        assert_eq!(image::open(&path).unwrap(), picture);
        assert_eq!(
            std::fs::read_dir(folder.path().join("new"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn a_file_where_the_folder_should_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error =
            save_png(&grid(&flat(1, &[0.0]), 1), &file.path().join("grid.png")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&file.path().display().to_string()),
            "{error}"
        );
    }
}
