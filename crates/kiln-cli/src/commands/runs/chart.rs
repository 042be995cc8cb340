//! Curves in the terminal, of Braille dots.

use std::io::{self, IsTerminal, Write};

use crossterm::style::{Color, Stylize};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color as Paint, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

use super::in_digits;
use crate::printable::printable;
use crate::terminal;

/// The height of a chart, and its largest width, in characters.
const HEIGHT: u16 = 18;
const WIDEST: usize = 100;
/// Numbers of the terminal's colours that can be seen on black and on white.
const COLORS: [u8; 6] = [33, 160, 34, 208, 135, 37];

/// A run's name, and its values by step.
pub type NamedCurve = (String, Vec<(f64, f64)>);

/// Shows curves over the step, if standard output is a terminal. Values that are not finite are left out.
pub fn show(title: &str, curves: &[NamedCurve]) {
    if io::stdout().is_terminal() {
        // It is not an error if a reader has gone: the numbers are in the tables.
        let _ = io::stdout().write_all(drawn(title, curves, terminal::width()).as_bytes());
    }
}

fn drawn(title: &str, curves: &[NamedCurve], width: usize) -> String {
    let finite = |points: &[(f64, f64)]| {
        let points = points.iter().copied();
        points.filter(|point| point.1.is_finite()).collect()
    };
    let curves: Vec<(&str, Vec<(f64, f64)>)> = (curves.iter())
        .map(|(name, points)| (name.as_str(), finite(points)))
        .collect();
    let points = || curves.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return String::new();
    }
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = points().map(|point| point.1).fold(lowest, f64::max);
    // A flat curve is in the middle.
    let margin = match highest > lowest {
        true => 0.0,
        false => lowest.abs().max(1.0) * 0.1,
    };
    let values = [lowest - margin, highest + margin];

    let colors = COLORS.into_iter().cycle();
    let sets = curves.iter().zip(colors.clone());
    let sets = sets.map(|((_, points), color)| {
        let style = Style::new().fg(Paint::Indexed(color));
        let set = Dataset::default().marker(Marker::Braille).style(style);
        set.graph_type(GraphType::Line).data(points)
    });
    let middle = f64::midpoint(values[0], values[1]);
    let labels = [values[0], middle, values[1]].map(in_digits);
    let chart = Chart::new(sets.collect())
        .x_axis(Axis::default().bounds([0.0, last]).labels([
            "0".to_owned(),
            format!("{:.0}", last / 2.0),
            format!("{last:.0} steps"),
        ]))
        .y_axis(Axis::default().bounds(values).labels(labels));
    let area = Rect::new(0, 0, width.min(WIDEST) as u16, HEIGHT);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);

    let mut text = format!("\n{}\n", printable(title));
    for line in 0..HEIGHT {
        for column in 0..area.width {
            let cell = &buffer[(column, line)];
            text += &match cell.fg {
                Paint::Indexed(color) => in_color(cell.symbol(), color),
                _ => cell.symbol().to_owned(),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for ((name, _), color) in curves.iter().zip(colors) {
        text += &format!("{} {}\n", in_color("──", color), printable(name));
    }
    text
}

fn in_color(text: &str, color: u8) -> String {
    text.with(Color::AnsiValue(color)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_drawn_within_the_width() {
        crossterm::style::force_color_output(true);
        let falling = (1..50).map(|step| (f64::from(step), 1.0 / f64::from(step)));
        let curves = [
            ("narrow".to_owned(), falling.collect()),
            ("wide".to_owned(), vec![(10.0, 0.5), (50.0, f64::NAN)]),
        ];
        for width in [0, 1, 20, 80, usize::MAX] {
            let text = drawn("loss/valid", &curves, width);
            assert!(text.contains("narrow") && text.contains("wide"), "{text}");
            if width >= 80 {
                assert!(
                    text.contains("1.0000") && text.contains("49 steps"),
                    "{text}"
                );
                for color in [33, 160] {
                    assert!(text.contains(&format!("5;{color}m")), "{text:?}");
                }
            }
        }
        assert_eq!(drawn("loss/valid", &[("a".to_owned(), vec![])], 80), "");
        assert!(drawn("flat", &[("a".to_owned(), vec![(1.0, 2.0); 3])], 80).contains("2.2"));
    }
}
