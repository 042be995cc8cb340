//! The names of a plot's lines, in rows beside the plot, so that they do not cover a line.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::font::FONT;

/// A line's appearance in a plot, and its name.
#[derive(Clone)]
pub(super) struct Entry {
    pub name: String,
    pub color: RGBColor,
    /// Pixels of each dash and of the space after it; `None` for a line without gaps.
    pub dashes: Option<(u32, u32)>,
}

/// Entries in rows, each as full as possible.
pub(super) struct Legend {
    /// Each entry with its left end, row by row.
    rows: Vec<Vec<(Entry, u32)>>,
}

const SIZE: u32 = 14;
const ROW: u32 = 22;
/// The width of the piece of line before a name, of the space between both, and of the space after the name.
const LINE: u32 = 24;
const GAP: u32 = 6;
const SPACE: u32 = 24;

impl Legend {
    /// A legend of this width in pixels. A name that is too long for a row loses its middle.
    pub(super) fn new(width: u32, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut rows: Vec<Vec<(Entry, u32)>> = Vec::new();
        let mut left = 0;
        for mut entry in entries {
            entry.name = shortened(&entry.name, width.saturating_sub(LINE + GAP));
            let end = LINE + GAP + width_of(&entry.name);
            match rows.last_mut() {
                Some(row) if left + end <= width => row.push((entry, left)),
                _ => {
                    left = 0;
                    rows.push(vec![(entry, left)]);
                }
            }
            left += end + SPACE;
        }
        Self { rows }
    }

    /// Pixels from top to bottom.
    pub(super) fn height(&self) -> u32 {
        self.rows.len() as u32 * ROW
    }

    /// Draws the rows with their upper left corner at `corner`.
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        corner: (u32, u32),
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        for (row, y) in self
            .rows
            .iter()
            .zip((corner.1 + ROW / 2..).step_by(ROW as usize))
        {
            for (entry, left) in row {
                let (x, y) = ((corner.0 + left) as i32, y as i32);
                let ends = [(x, y), (x + LINE as i32, y)];
                let style = entry.color.stroke_width(2);
                match entry.dashes {
                    Some((dash, space)) => {
                        area.draw(&DashedPathElement::new(ends, dash, space, style))?;
                    }
                    None => area.draw(&PathElement::new(ends, style))?,
                }
                let place = (x + (LINE + GAP) as i32, y - SIZE as i32 / 2);
                area.draw(&Text::new(entry.name.as_str(), place, (FONT, SIZE)))?;
            }
        }
        Ok(())
    }
}

/// Pixels from the beginning of a name to its end.
fn width_of(name: &str) -> u32 {
    let size = (FONT, SIZE).into_font().box_size(name);
    // Without the font nothing is drawn, and drawing reports it.
    size.map_or(0, |(width, _)| width)
}

/// The name with as much of its beginning and its end as fits into `width` pixels.
fn shortened(name: &str, width: u32) -> String {
    let letters: Vec<char> = name.chars().collect();
    let with = |kept: usize| {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let ends = [&letters[..head], &letters[letters.len() - tail..]];
        ends.map(String::from_iter).join("…")
    };
    let fits = |text: &str| width_of(text) <= width;
    if fits(name) {
        return name.to_owned();
    }
    let kept = (0..letters.len()).rev().find(|&kept| fits(&with(kept)));
    with(kept.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::font::use_own_font;

    fn legend(width: u32, names: &[&str]) -> Legend {
        use_own_font();
        let entry = |name: &&str| Entry {
            name: (*name).to_owned(),
            color: BLACK,
            dashes: None,
        };
        Legend::new(width, names.iter().map(entry))
    }

    #[test]
    fn names_stand_beside_each_other_within_the_width() {
        let names = ["train", "validation", "a third one", "and the last"];
        let all = legend(2000, &names);
        assert_eq!((all.rows.len(), all.height()), (1, ROW));
        let narrow = legend(200, &names);
        assert!(narrow.rows.len() > 1);
        assert_eq!(narrow.height(), narrow.rows.len() as u32 * ROW);
        for row in all.rows.iter().chain(&narrow.rows) {
            for pair in row.windows(2) {
                let end = pair[0].1 + LINE + GAP + width_of(&pair[0].0.name);
                assert!(
                    end < pair[1].1,
                    "{} lies over {}",
                    pair[0].0.name,
                    pair[1].0.name
                );
            }
        }
        assert_eq!(legend(200, &[]).height(), 0);
    }

    #[test]
    fn a_long_name_keeps_its_ends_and_is_not_cut_off() {
        let long = format!("runs/{}/model", "very-".repeat(60));
        let name = &legend(300, &[&long]).rows[0][0].0.name.clone();
        assert!(
            name.starts_with("runs/") && name.ends_with("/model"),
            "{name}"
        );
        assert!(
            name.contains('…') && LINE + GAP + width_of(name) <= 300,
            "{name}"
        );
        // Not even one letter.
        assert_eq!(legend(0, &[&long]).rows[0][0].0.name, "…");
    }
}
