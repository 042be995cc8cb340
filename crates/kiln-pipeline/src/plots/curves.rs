//! The curves of a training, every metric over the steps, and those of several trainings over each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::{Axis, END, is_drawn, words_at};
use super::legend::{Entry, Legend};
use super::plot::{COLORS, GRID, Plot, PlotError, save, save_new};
use crate::font::FONT;

/// Values of `METRIC/SPLIT` by step.
pub type Rows = BTreeMap<usize, BTreeMap<String, f64>>;
/// The units of metrics, by name, if they have one.
pub type Units = BTreeMap<String, String>;

const PANEL: (u32, u32) = (640, 240);
const TITLE: u32 = 40;
/// The space to the left of a panel's axis.
const LEFT: u32 = 72;
/// The largest number of points of a curve: more than its panel has pixels.
const POINTS: usize = 1000;

/// Draws a panel for each metric with training and validation. The metric `first` comes before the others.
///
/// A value that is not finite leaves a gap in its curve; one that was not measured leaves none.
///
/// # Errors
/// [`PlotError`] if `path` ends in neither `.svg` nor `.png`, or cannot be written.
pub fn plot_curves(
    title: &str,
    first: &str,
    rows: &Rows,
    units: &Units,
    path: &Path,
) -> Result<(), PlotError> {
    let mut panels = Panels::default();
    for (&step, row) in rows {
        for (column, &value) in row {
            if let Some((name, split)) = column.rsplit_once('/') {
                panels.add(name, split, (step as f64, value));
            }
        }
    }
    let is_there = |split: &&str| {
        let mut panels = panels.0.values();
        panels.any(|curves| curves.contains_key(split))
    };
    let splits = ["train", "valid"].into_iter().zip(COLORS);
    let splits = splits.filter(|(split, _)| is_there(split)).collect();
    save(&panels.into_curves(title, splits, first, units), path)
}

/// Draws a panel for each of the `columns`, such as `loss/valid`, with a curve for each run, by name. From the ninth run on
/// colours come again.
///
/// Another file at `path` stays, and the plot's name gets a number. Returns its path.
///
/// # Errors
/// Those of [`plot_curves`].
pub fn plot_compared(
    title: &str,
    columns: &[String],
    runs: &[(String, Rows)],
    path: &Path,
) -> Result<PathBuf, PlotError> {
    let mut panels = Panels::default();
    for (run, rows) in runs {
        for (&step, row) in rows {
            for (column, &value) in row.iter().filter(|(column, _)| columns.contains(column)) {
                panels.add(column, run, (step as f64, value));
            }
        }
    }
    let names = runs.iter().map(|(name, _)| name.as_str());
    let colors = names.zip(COLORS.into_iter().cycle()).collect();
    let first = columns.first().map_or("", String::as_str);
    save_new(
        &panels.into_curves(title, colors, first, &Units::new()),
        path,
    )
}

/// The points of curves, by panel and by name.
#[derive(Default)]
struct Panels<'a>(BTreeMap<&'a str, NamedCurves<'a>>);

/// The points of curves by name.
type NamedCurves<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

impl<'a> Panels<'a> {
    fn add(&mut self, panel: &'a str, curve: &'a str, point: (f64, f64)) {
        let curves = self.0.entry(panel).or_default();
        curves.entry(curve).or_default().push(point);
    }

    /// The picture. The panel `first` comes before the others.
    fn into_curves(
        self,
        title: &'a str,
        colors: Vec<(&'a str, RGBColor)>,
        first: &str,
        units: &'a Units,
    ) -> Curves<'a> {
        let panels = self.0.into_iter().map(|(name, curves)| Panel {
            name,
            unit: units.get(name).map(String::as_str),
            curves,
        });
        let mut panels: Vec<_> = panels.collect();
        panels.sort_by_key(|panel| (panel.name != first, panel.name));
        Curves {
            title,
            colors,
            panels,
        }
    }
}

struct Curves<'a> {
    title: &'a str,
    /// The colours of the curves, by name.
    colors: Vec<(&'a str, RGBColor)>,
    panels: Vec<Panel<'a>>,
}

/// One metric, with the points of its curves by name.
struct Panel<'a> {
    name: &'a str,
    unit: Option<&'a str>,
    curves: NamedCurves<'a>,
}

impl Plot for Curves<'_> {
    fn size(&self) -> (u32, u32) {
        let rows = self.panels.len().div_ceil(2).max(1);
        let heading = TITLE + self.legend().height();
        (2 * PANEL.0, heading + rows as u32 * PANEL.1)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let legend = self.legend();
        let (heading, panels) = area.split_vertically(TITLE + legend.height());
        heading.margin(8, 0, 0, 0).titled(self.title, (FONT, 20))?;
        legend.draw(&heading, (LEFT, TITLE))?;
        let rows = self.panels.len().div_ceil(2).max(1);
        for (area, panel) in panels.split_evenly((rows, 2)).iter().zip(&self.panels) {
            panel.draw(area, &self.colors)?;
        }
        Ok(())
    }
}

impl Curves<'_> {
    /// The one legend for all panels.
    fn legend(&self) -> Legend {
        let entries = self.colors.iter().map(|&(name, color)| Entry {
            name: name.to_owned(),
            color,
            dashes: None,
        });
        Legend::new(2 * (PANEL.0 - LEFT), entries)
    }
}

impl Panel<'_> {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        colors: &[(&str, RGBColor)],
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let points = || self.curves.values().flatten();
        let steps = Axis::between(0.0, points().map(|point| point.0).fold(1.0, f64::max));
        let values = Axis::of(points().map(|point| point.1));
        let (step_labels, value_labels) = (steps.whole_labels(), values.labels());
        let places = |labels: &[(i32, String)]| labels.iter().map(|label| label.0).collect();
        let caption = match self.unit {
            Some(unit) => format!("{}, {unit}", self.name),
            None => self.name.to_owned(),
        };
        let mut chart = ChartBuilder::on(area)
            .caption(caption, (FONT, 15))
            .margin(8)
            // Half of the last step's label.
            .margin_right(36)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (0..END).with_key_points(places(&step_labels)),
                (0..END).with_key_points(places(&value_labels)),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc("step")
            .x_label_formatter(&|&place| words_at(place, &step_labels))
            .y_label_formatter(&|&place| words_at(place, &value_labels))
            .label_style((FONT, 13))
            .draw()?;
        for (name, color) in colors {
            let Some(points) = self.curves.get(name) else {
                continue;
            };
            let style = color.stroke_width(2);
            for stretch in stretches(points) {
                let place = |&(step, value): &(f64, f64)| (steps.place(step), values.place(value));
                let line: Vec<_> = thinned(stretch).iter().map(place).collect();
                // A line of one point would be invisible.
                let alone = (line.len() == 1).then(|| Circle::new(line[0], 2, color.filled()));
                chart.draw_series(alone)?;
                chart.draw_series(LineSeries::new(line, style))?;
            }
        }
        Ok(())
    }
}

/// The stretches of a curve between values that cannot be drawn.
fn stretches(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    let stretches = points.split(|point| !is_drawn(point.1));
    stretches.filter(|stretch| !stretch.is_empty())
}

/// Reduces the points to a visible number: the lowest and the highest of each group, so that no spike is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let groups = points.chunks(points.len().div_ceil(POINTS / 2));
    let ends = groups.flat_map(|group| {
        let by_value = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
        let ends = [group.iter().min_by(by_value), group.iter().max_by(by_value)];
        let mut ends: Vec<(f64, f64)> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        ends
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[(&str, &[f64])]) -> Rows {
        let mut rows = Rows::new();
        for (column, values) in columns {
            for (round, &value) in values.iter().enumerate() {
                let row = rows.entry((round + 1) * 100).or_default();
                row.insert((*column).to_owned(), value);
            }
        }
        rows
    }

    fn svg(rows: &Rows) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        let units = Units::from([("codes in use".to_owned(), "%".to_owned())]);
        plot_curves("stage 1", "loss", rows, &units, &path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn every_metric_has_a_panel_the_loss_first_and_every_split_a_curve() {
        let svg = svg(&rows(&[
            ("commitment/train", &[1.0, 0.5, 0.01]),
            ("loss/train", &[1.0, 0.5, 0.3]),
            ("loss/valid", &[1.1, 0.6, 0.4]),
            ("codes in use/valid", &[50.0, 60.0, 70.0]),
        ]));
        let place = |word: &str| {
            let place = svg.find(&format!("\n{word}\n"));
            place.unwrap_or_else(|| panic!("{word} is missing"))
        };
        assert!(place("stage 1") < place("loss") && place("loss") < place("commitment"));
        for word in ["step", "train", "valid", "300", "codes in use, %"] {
            place(word);
        }
        assert!(!svg.contains("300.0"), "steps are whole");
        assert!(svg.matches("<polyline").count() >= 3);
    }

    #[test]
    fn runs_lie_over_each_other_in_a_panel_for_each_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.svg");
        let of = |values: &[f64]| rows(&[("loss/valid", values), ("loss/train", values)]);
        let runs = [
            ("narrow".to_owned(), of(&[1.0, 0.5])),
            ("wide".to_owned(), of(&[0.9, 0.4])),
        ];
        plot_compared("two runs", &["loss/valid".to_owned()], &runs, &path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for word in ["two runs", "narrow", "wide", "loss/valid"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word}");
        }
        assert!(!svg.contains("loss/train"));
        let lines = |color| {
            let lines = svg.lines().filter(|line| line.contains("<polyline"));
            lines.filter(|line| line.contains(color)).count()
        };
        assert_eq!(
            [lines("#1F77B4"), lines("#D62728")],
            [2, 2],
            "legend and curve"
        );
    }

    #[test]
    fn what_is_not_finite_leaves_a_gap_and_what_was_not_measured_none() {
        let lines = |rows: &Rows| {
            let color = "#1F77B4"; // the colour of training
            let svg = svg(rows);
            let lines = svg.lines().filter(|line| line.contains(color));
            let of_curve = lines.filter(|line| line.contains("<polyline"));
            of_curve.count() - 1 // the one in the legend
        };
        let of = |values: &[f64]| lines(&rows(&[("loss/train", values)]));
        assert_eq!(of(&[1.0, 0.9, 0.8, 0.7]), 1);
        assert_eq!(of(&[1.0, 0.9, f64::INFINITY, 0.8, 0.7]), 2);
        assert_eq!(
            of(&[f64::NAN, 1.0, 0.9, f64::NEG_INFINITY, 0.8, 0.7, f64::MAX]),
            2
        );
        let values = &[1.0, 0.9, 0.8];
        let mut not_measured = rows(&[("loss/train", values), ("loss/valid", values)]);
        not_measured.get_mut(&200).unwrap().remove("loss/train");
        assert_eq!(lines(&not_measured), 1);
    }

    #[test]
    fn one_point_no_point_and_a_hundred_thousand_can_be_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<f64> = (0..100_000).map(|step| f64::from(step).sin()).collect();
        for (values, name) in [
            (&[0.3][..], "one.png"),
            (&[][..], "none.png"),
            (&[f64::NAN], "nan.png"),
            (&many, "many.png"),
        ] {
            let path = folder.path().join(name);
            plot_curves(
                "short",
                "loss",
                &rows(&[("loss/train", values)]),
                &Units::new(),
                &path,
            )
            .unwrap();
            assert!(image::open(&path).is_ok());
        }
        assert!(svg(&rows(&[("loss/train", &[0.3])])).contains("<circle"));
        let thin = thinned(&many.iter().map(|&value| (value, value)).collect::<Vec<_>>());
        assert!(thin.len() <= POINTS);
        let highest = many.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(thin.iter().any(|point| point.1 == highest));
    }
}
