//! Words beside a grid, which name its rows and columns.

use image::{DynamicImage, Rgb, RgbImage, imageops};
use plotters::prelude::*;

use super::grid::{GAP_BYTE, Picture};
use crate::font::{FONT, use_own_font};

/// The height of the letters and of a line, in pixels.
const LETTERS: u32 = 12;
const LINE: u32 = 16;
/// Pixels of a line above its letters. The tallest letters reach into two of them.
const ABOVE: u32 = 4;
/// Pixels between words and the grid.
const MARGIN: u32 = 4;
/// The largest number of letters in a name. Longer names are cut.
const LONGEST: usize = 24;
const INK: RGBColor = RGBColor(240, 240, 240);

/// The words beside a grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The line above everything; it may be empty.
    pub title: String,
    /// The names to the left of each row, from top to bottom.
    pub rows: Vec<String>,
    /// The names above each column, from left to right. A name that would run into the previous one is left out.
    pub columns: Vec<String>,
}

/// A [`grid`](super::grid()) with words around it. The grid is in the lower right corner, pixel for pixel.
pub fn labelled(grid: &Picture, labels: &Labels) -> Picture {
    use_own_font();
    let rows: Vec<String> = labels.rows.iter().map(|name| short(name)).collect();
    let columns: Vec<String> = labels.columns.iter().map(|name| short(name)).collect();
    let widest = rows.iter().map(|name| width_of(name)).max();
    let left = widest.map_or(0, |widest| widest + 2 * MARGIN);
    let title_lines = u32::from(!labels.title.is_empty());
    let top = LINE * (title_lines + u32::from(!columns.is_empty()));
    let title_end = if title_lines > 0 {
        width_of(&labels.title) + 2 * MARGIN
    } else {
        0
    };
    let (width, height) = ((left + grid.width()).max(title_end), top + grid.height());
    // A title longer than the grid's width leaves room at the left.
    let left = width - grid.width();

    let mut canvas = RgbImage::from_pixel(width, height, Rgb([GAP_BYTE; 3]));
    let mut words: Vec<(String, u32, u32)> = Vec::new();
    if title_lines > 0 {
        words.push((labels.title.clone(), MARGIN, ABOVE));
    }
    let cell_height = grid.height() / (rows.len() as u32).max(1);
    for (row, name) in (0..).zip(rows) {
        let middle = top + row * cell_height + cell_height / 2;
        let x = left.saturating_sub(width_of(&name) + MARGIN);
        words.push((name, x, middle.saturating_sub(LETTERS / 3)));
    }
    let cell_width = grid.width() / (columns.len() as u32).max(1);
    let mut free_from = 0;
    for (column, name) in (0..).zip(columns) {
        let (wide, middle) = (width_of(&name), left + column * cell_width + cell_width / 2);
        let x = middle.saturating_sub(wide / 2);
        if x >= free_from && x + wide <= width {
            free_from = x + wide + MARGIN;
            words.push((name, x, top - LINE + ABOVE));
        }
    }
    write(&mut canvas, &words);
    imageops::replace(
        &mut canvas,
        &grid.to_rgb8(),
        i64::from(left),
        i64::from(top),
    );
    let canvas = DynamicImage::from(canvas);
    match grid {
        DynamicImage::ImageLuma8(_) => canvas.into_luma8().into(),
        _ => canvas,
    }
}

/// Draws words at the given upper left corners. A picture is useful even if a letter cannot be drawn.
fn write(canvas: &mut RgbImage, words: &[(String, u32, u32)]) {
    let size = canvas.dimensions();
    let area = BitMapBackend::with_buffer(canvas, size).into_drawing_area();
    for (text, x, y) in words {
        let style = (FONT, LETTERS).into_font().color(&INK);
        let _ = area.draw(&Text::new(text.as_str(), (*x as i32, *y as i32), style));
    }
}

/// Pixels from the first letter to the last.
fn width_of(text: &str) -> u32 {
    let size = (FONT, LETTERS).into_font().box_size(text);
    size.map_or(0, |(width, _)| width)
}

fn short(name: &str) -> String {
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use image::{GenericImageView, GrayImage, Luma};

    use super::*;

    fn words(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Pixels of `picture` with letters in them.
    fn ink(picture: &Picture, x: u32, y: u32, width: u32, height: u32) -> usize {
        let part = picture.view(x, y, width, height).to_image();
        let light = |pixel: &&image::Rgba<u8>| pixel.0[0] > 160;
        part.pixels().filter(light).count()
    }

    #[test]
    fn the_grid_stands_in_the_lower_right_corner() {
        let grid: Picture = GrayImage::from_pixel(60, 40, Luma([7])).into();
        let labels = Labels {
            title: "ddim".to_owned(),
            rows: words(&["rose", "lily"]),
            columns: words(&["0", "10"]),
        };
        let picture = labelled(&grid, &labels);
        assert!(matches!(picture, DynamicImage::ImageLuma8(_)));
        let (left, top) = (picture.width() - 60, picture.height() - 40);
        assert_eq!(top, 2 * LINE);
        let inside = picture.view(left, top, 60, 40).to_image();
        assert!(inside.pixels().all(|pixel| pixel.0[0] == 7));
        // Nothing is cut off above.
        assert_eq!(ink(&picture, 0, 0, picture.width(), 1), 0);
        // A title, two names of rows and two of columns.
        assert!(ink(&picture, 0, 0, picture.width(), LINE) > 20);
        assert!(ink(&picture, 0, top, left, 20) > 20);
        assert!(ink(&picture, 0, top + 20, left, 20) > 20);
        assert!(ink(&picture, left, LINE, 30, LINE) > 5);
        assert!(ink(&picture, left + 30, LINE, 30, LINE) > 5);
    }

    #[test]
    fn labels_that_have_no_room_are_left_out() {
        let grid: Picture = RgbImage::new(80, 10).into();
        let columns = (0..10).map(|step| format!("{}", 1000 + step)).collect();
        let labels = Labels {
            columns,
            ..Labels::default()
        };
        let picture = labelled(&grid, &labels);
        assert_eq!((picture.width(), picture.height()), (80, 10 + LINE));
        let letters = ink(&picture, 0, 0, 80, LINE);
        assert!((20..400).contains(&letters), "{letters}");
        assert_eq!(labelled(&grid, &Labels::default()), grid);
    }

    #[test]
    fn long_names_are_cut_and_long_titles_make_room() {
        assert_eq!(short("a rose"), "a rose");
        assert_eq!(short(&"é".repeat(30)).chars().count(), LONGEST);
        let grid: Picture = RgbImage::new(8, 8).into();
        let labels = Labels {
            title: "a title that is wider than its grid".to_owned(),
            ..Labels::default()
        };
        let picture = labelled(&grid, &labels);
        assert!(picture.width() > 150 && picture.height() == 8 + LINE);
    }
}
