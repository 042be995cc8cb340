//! The quality of images over the work for them.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::{Axis, END, words_at};
use super::legend::{Entry, Legend};
use super::plot::{COLORS, GRID, Plot, PlotError, draw_error, to_svg};
use crate::font::{FONT, use_own_font};

/// The styles of landmarks: colour, dash and the space after it, in pixels.
const DASHES: [(RGBColor, u32, u32); 3] = [
    (RGBColor(60, 60, 60), 10, 5),
    (RGBColor(150, 110, 60), 2, 4),
    (RGBColor(120, 120, 120), 5, 2),
];

const PANEL: (u32, u32) = (720, 480);
/// The space to the left of the legend, which has the axis, to its right and below it.
const LEFT: u32 = 76;
const RIGHT: u32 = 12;
const BELOW: u32 = 12;

/// One way to sample, at several numbers of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityCurve {
    /// Its name in the legend.
    pub name: String,
    /// Network calls per image, and the figure.
    pub points: Vec<(f64, f64)>,
}

/// The SVG of the figure named `figure` over the number of network calls, on a logarithmic axis. `landmarks` are
/// horizontal lines, by name.
///
/// # Errors
/// [`PlotError::Draw`] for figures that cannot be drawn.
pub fn quality_svg(
    figure: &str,
    curves: &[QualityCurve],
    landmarks: &[(String, f64)],
) -> Result<String, PlotError> {
    let plot = Quality {
        figure,
        curves,
        landmarks,
    };
    use_own_font();
    to_svg(&plot).map_err(|problem| draw_error(Path::new("quality.svg"), problem))
}

struct Quality<'a> {
    figure: &'a str,
    curves: &'a [QualityCurve],
    landmarks: &'a [(String, f64)],
}

impl Plot for Quality<'_> {
    fn size(&self) -> (u32, u32) {
        (PANEL.0, PANEL.1 + self.legend().height() + BELOW)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let (fewest, most) = range(points().map(|point| point.0));
        let calls = Axis::logarithmic(fewest.max(1.0), most.max(1.0));
        let labels = calls.labels_at(points().map(|point| point.0));
        let landmarks = self.landmarks.iter().map(|landmark| landmark.1);
        let (low, high) = range(points().map(|point| point.1).chain(landmarks));
        let margin = 0.05 * (high - low) + 1e-9;
        let (panel, below) = area.split_vertically(PANEL.1);
        self.legend().draw(&below, (LEFT, 0))?;
        let mut chart = ChartBuilder::on(&panel)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (0..END).with_key_points(labels.iter().map(|label| label.0).collect()),
                low - margin..high + margin,
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc("network calls an image")
            .x_label_formatter(&|&place| words_at(place, &labels))
            .y_desc(self.figure)
            .label_style((FONT, 14))
            .draw()?;
        for ((_, value), (color, dash, space)) in self.landmarks.iter().zip(dashes()) {
            let ends = [(0, *value), (END, *value)].into_iter();
            let style = color.stroke_width(2);
            chart.draw_series(DashedLineSeries::new(ends, dash, space, style))?;
        }
        for (curve, color) in self.curves.iter().zip(colors()) {
            let points = curve.points.iter();
            let points = points.map(|&(of_image, figure)| (calls.place(of_image), figure));
            chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
            chart.draw_series(points.map(|point| Circle::new(point, 3, color.filled())))?;
        }
        Ok(())
    }
}

impl Quality<'_> {
    fn legend(&self) -> Legend {
        let landmarks = self.landmarks.iter().zip(dashes());
        let landmarks = landmarks.map(|((name, _), (color, dash, space))| Entry {
            name: name.clone(),
            color,
            dashes: Some((dash, space)),
        });
        let curves = self
            .curves
            .iter()
            .zip(colors())
            .map(|(curve, color)| Entry {
                name: curve.name.clone(),
                color,
                dashes: None,
            });
        Legend::new(PANEL.0 - LEFT - RIGHT, landmarks.chain(curves))
    }
}

fn dashes() -> impl Iterator<Item = (RGBColor, u32, u32)> {
    DASHES.into_iter().cycle()
}

fn colors() -> impl Iterator<Item = RGBColor> {
    COLORS.into_iter().cycle()
}

/// The least and the largest finite value; 0 and 1 if there is none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_landmarks_and_the_figure_are_named() {
        let curve = |name: &str, points: &[(f64, f64)]| QualityCurve {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let curves = [
            curve("ddim", &[(10.0, 3.0), (50.0, 1.0)]),
            curve("one", &[(5.0, f64::NAN)]),
        ];
        let landmarks = [("real".to_owned(), 0.1), ("blurred".to_owned(), 2.0)];
        let svg = quality_svg("FID", &curves, &landmarks).unwrap();
        for word in ["ddim", "real", "blurred", "FID", "network calls"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        for calls in [5, 10, 50] {
            assert!(
                svg.contains(&format!("\n{calls}\n")),
                "{calls} has no label"
            );
        }
        // Each landmark has its own colour, and many dashes of it.
        for (color, ..) in &DASHES[..2] {
            let RGBColor(red, green, blue) = color;
            let color = format!("#{red:02X}{green:02X}{blue:02X}");
            assert!(svg.matches(&color).count() > 20, "{color}");
        }
    }

    #[test]
    fn a_single_point_can_be_drawn() {
        let curves = [QualityCurve {
            name: "ddim".to_owned(),
            points: vec![(10.0, 3.0)],
        }];
        let svg = quality_svg("FID", &curves, &[]).unwrap();
        assert!(svg.contains("ddim") && svg.contains("\n10\n"), "{svg}");
    }
}
