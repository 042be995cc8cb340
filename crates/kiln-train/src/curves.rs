//! The curves of a training as an SVG picture.

use std::collections::BTreeMap;

use plotters::prelude::*;

use crate::plots::{FONT, use_own_font};

const PANEL: (u32, u32) = (640, 220);

/// Draws one panel per metric, training and validation in it, over the steps; `rows` holds `metric/split` by step.
///
/// A picture is worth having only if it can be drawn: where plotting fails, the SVG is empty.
pub(crate) fn draw(title: &str, rows: &BTreeMap<usize, BTreeMap<String, f64>>) -> String {
    let mut metrics: BTreeMap<&str, Curves<'_>> = BTreeMap::new();
    for (&step, row) in rows {
        for (column, &value) in row {
            if let Some((metric, split)) = column.rsplit_once('/') {
                metrics
                    .entry(metric)
                    .or_default()
                    .entry(split)
                    .or_default()
                    .push((step as f64, value));
            }
        }
    }
    use_own_font();
    let mut svg = String::new();
    if draw_panels(title, &metrics, &mut svg).is_err() {
        svg.clear();
    }
    svg
}

/// The points of one metric, by split.
type Curves<'a> = BTreeMap<&'a str, Vec<(f64, f64)>>;

fn draw_panels(
    title: &str,
    metrics: &BTreeMap<&str, Curves<'_>>,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let rows = metrics.len().div_ceil(2).max(1);
    let root =
        SVGBackend::with_string(svg, (2 * PANEL.0, rows as u32 * PANEL.1 + 40)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, (FONT, 20))?;
    for (area, (metric, curves)) in root.split_evenly((rows, 2)).iter().zip(metrics) {
        draw_panel(area, metric, curves)?;
    }
    root.present()?;
    drop(root);
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    metric: &str,
    curves: &Curves<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.values().flatten();
    let last_step = points().map(|point| point.0).fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-12);
    let mut chart = ChartBuilder::on(area)
        .caption(metric, (FONT, 15))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last_step, (low - margin)..(high + margin))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(6)
        .y_labels(5)
        .draw()?;
    for (split, points) in curves {
        let color = if *split == "train" { BLUE } else { RED };
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color))?
            .label(*split)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> BTreeMap<usize, BTreeMap<String, f64>> {
        (1..=5)
            .map(|round| {
                let values = [
                    ("loss/train", 1.0 / round as f64),
                    ("loss/valid", 1.2 / round as f64),
                    ("rate/train", 1e-3),
                ];
                (
                    round * 100,
                    values
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                )
            })
            .collect()
    }

    #[test]
    fn every_metric_has_a_panel_and_every_split_a_curve() {
        let svg = draw("stage 1", &rows());
        assert!(svg.starts_with("<svg"));
        for word in ["stage 1", "loss", "rate", "train", "valid"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert!(svg.matches("<polyline").count() >= 3);
    }

    #[test]
    fn one_constant_point_can_be_drawn() {
        let one = rows().into_iter().take(1).collect();
        assert!(draw("short", &one).contains("loss"));
    }
}
