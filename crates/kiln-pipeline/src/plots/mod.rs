//! Plots, as SVG or PNG by the file's extension.
//!
//! Letters come from a compiled-in font, so that a plot looks the same on a machine without fonts.

mod axis;
mod curves;
mod legend;
mod plot;
mod points;
mod quality;
mod schedules;
mod svg;

pub use curves::{Rows, Units, plot_compared, plot_curves};
pub use plot::PlotError;
pub use points::{MOST_POINTS, plot_points};
pub use quality::{QualityCurve, quality_svg};
pub use schedules::{PlottedSchedule, plot_schedules};
