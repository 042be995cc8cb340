//! A figure at several settings: a row for each, with a dot for each seed and their mean.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::{Axis, END, is_drawn, words_at};
use super::plot::{COLORS, GRID, Plot, PlotError, save};
use crate::font::FONT;

/// Pixels: the width of the plot, of a letter of a name, and of the widest names; the height of a row, and of what is
/// above and below them.
const WIDTH: u32 = 900;
const LETTER: u32 = 7;
const NAMES: u32 = 420;
const ROW: u32 = 26;
const ABOVE: u32 = 40;
const BELOW: u32 = 56;

/// The largest number of rows.
pub const MOST_POINTS: usize = 200;

/// Draws a row for each of the first [`MOST_POINTS`] settings, by name, with its values of `figure`. An earlier plot at
/// `path` is replaced.
///
/// # Errors
/// [`PlotError`] if `path` ends in neither `.svg` nor `.png`, or cannot be written.
pub fn plot_points(
    figure: &str,
    points: &[(String, Vec<f64>)],
    path: &Path,
) -> Result<(), PlotError> {
    let points = &points[..points.len().min(MOST_POINTS)];
    save(&Points { figure, points }, path)
}

struct Points<'a> {
    figure: &'a str,
    points: &'a [(String, Vec<f64>)],
}

impl Points<'_> {
    /// Pixels for the longest name.
    fn names(&self) -> u32 {
        let lengths = self.points.iter().map(|(name, _)| name.chars().count());
        (lengths.max().unwrap_or_default() as u32 * LETTER + 24).min(NAMES)
    }

    /// The name of a row, as far as there is room; empty if there is no such row.
    fn shown(&self, row: usize) -> String {
        let most = ((NAMES - 24) / LETTER) as usize;
        let name = self.points.get(row).map_or("", |(name, _)| name);
        match name.char_indices().nth(most) {
            Some((end, _)) => format!("{}..", &name[..end]),
            None => name.to_owned(),
        }
    }
}

impl Plot for Points<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH, ABOVE + BELOW + self.points.len().max(1) as u32 * ROW)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let rows = self.points.len().max(1) as i32;
        let all = self
            .points
            .iter()
            .flat_map(|(_, values)| values.iter().copied());
        let values = Axis::of(all);
        let labels = values.labels();
        let mut chart = ChartBuilder::on(area)
            .caption(self.figure, (FONT, 15))
            .margin(8)
            .margin_right(36)
            .x_label_area_size(32)
            .y_label_area_size(self.names())
            .build_cartesian_2d(
                (0..END).with_key_points(labels.iter().map(|label| label.0).collect()),
                // Rows are two units apart, the first one on top.
                (-2 * rows..0).with_key_points((0..rows).map(|row| -2 * row - 1).collect()),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_label_formatter(&|&place| words_at(place, &labels))
            .y_label_formatter(&|&place| self.shown(((-place - 1) / 2) as usize))
            .label_style((FONT, 13))
            .draw()?;
        for (row, (_, of_row)) in self.points.iter().enumerate() {
            let height = -2 * row as i32 - 1;
            let drawn: Vec<f64> = of_row.iter().copied().filter(|&it| is_drawn(it)).collect();
            if drawn.is_empty() {
                continue;
            }
            let dot = |&value: &f64| {
                let style = COLORS[0].mix(0.6).filled();
                Circle::new((values.place(value), height), 3, style)
            };
            chart.draw_series(drawn.iter().map(dot))?;
            let mean = values.place(drawn.iter().sum::<f64>() / drawn.len() as f64);
            let stroke = COLORS[1].stroke_width(2);
            chart.draw_series([Cross::new((mean, height), 5, stroke)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_row_and_every_seed_its_dot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("points.svg");
        let points = [
            ("rate=0.1".to_owned(), vec![0.5, 0.6, 0.7]),
            ("rate=0.2".to_owned(), vec![0.4]),
            ("rate=0.3".to_owned(), vec![f64::NAN]),
            ("x".repeat(500), vec![]),
        ];
        plot_points("loss/valid", &points, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for word in ["loss/valid", "rate=0.1", "rate=0.2", "rate=0.3"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
        plot_points("nothing", &[], &folder.path().join("none.png")).unwrap();
    }
}
