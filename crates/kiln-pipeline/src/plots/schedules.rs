//! Schedules side by side: how signal turns into noise, and which levels a sampler visits.

use std::path::{Path, PathBuf};

use kiln_diffusion::{Level, Rates, Schedule};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::legend::{Entry, Legend};
use super::plot::{COLORS, GRID, Plot, PlotError, save_new};
use crate::font::FONT;

/// The number of points of a curve: more than its pixels on half of most screens.
const POINTS: usize = 400;
const PANEL: (u32, u32) = (640, 456);
/// The space to the left of the legend, which has the axis of the first panel, and below it.
const LEFT: u32 = 60;
const BELOW: u32 = 12;

/// A schedule in a plot.
#[derive(Debug, Clone)]
pub struct PlottedSchedule {
    /// Its name in the legend.
    pub name: String,
    /// The curve.
    pub schedule: Schedule,
    /// The levels at which a sampler calls its denoiser, marked in the plot.
    pub visited: Vec<Level>,
}

/// Draws signal and noise rates, and the log-SNR, of some schedules over the timestep, from the first to the last.
///
/// Schedules may differ in their number of timesteps, so the axis is the timestep's share of the last one.
///
/// Another file at `path` stays, and the plot's name gets a number. Returns its path.
///
/// # Errors
/// [`PlotError`] if `path` ends in neither `.svg` nor `.png`, or cannot be written.
pub fn plot_schedules(schedules: &[PlottedSchedule], path: &Path) -> Result<PathBuf, PlotError> {
    save_new(&Schedules(schedules), path)
}

struct Schedules<'a>(&'a [PlottedSchedule]);

/// The quantity of a panel, computed from the rates at a timestep.
type Quantity = fn(Rates) -> f64;

impl Plot for Schedules<'_> {
    fn size(&self) -> (u32, u32) {
        (2 * PANEL.0, PANEL.1 + self.legend().height() + BELOW)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let (panels, below) = area.split_vertically(PANEL.1);
        let (rates, log_snr) = panels.split_horizontally(PANEL.0);
        self.legend().draw(&below, (LEFT, 0))?;
        self.draw_panel(
            &rates,
            "signal rate (bold) and noise rate (thin)",
            -0.02..1.02,
            &[(2, |rates| rates.signal), (1, |rates| rates.noise)],
        )?;
        self.draw_panel(
            &log_snr,
            "log-SNR = ln(signal rate² / noise rate²)",
            self.log_snr_range(),
            &[(2, |rates| rates.log_snr())],
        )
    }
}

impl Schedules<'_> {
    fn legend(&self) -> Legend {
        let colors = COLORS.into_iter().cycle();
        let entries = self.0.iter().zip(colors).map(|(plotted, color)| Entry {
            name: plotted.name.clone(),
            color,
            dashes: None,
        });
        Legend::new(2 * PANEL.0 - 2 * LEFT, entries)
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        caption: &str,
        range: std::ops::Range<f64>,
        quantities: &[(u32, Quantity)],
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let mut chart = ChartBuilder::on(area)
            .caption(caption, (FONT, 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, range)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc("timestep / last timestep")
            .label_style((FONT, 14))
            .x_labels(6)
            .y_labels(7)
            .draw()?;
        for (plotted, color) in self.0.iter().zip(COLORS.into_iter().cycle()) {
            for &(width, quantity) in quantities {
                let line = plotted.curve(quantity);
                let style = color.stroke_width(width);
                chart.draw_series(LineSeries::new(line, style))?;
                let marks = plotted.marks(quantity);
                chart.draw_series(marks.map(|mark| Circle::new(mark, 3, color.filled())))?;
            }
        }
        Ok(())
    }

    /// The range from the lowest to the highest finite log-SNR, with a margin.
    fn log_snr_range(&self) -> std::ops::Range<f64> {
        let values = || {
            let curves = self.0.iter();
            curves.flat_map(|plotted| plotted.curve(|rates| rates.log_snr()))
        };
        let low = values().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = (values().map(|point| point.1)).fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return -1.0..1.0; // nothing to show
        }
        let margin = 0.05 * (high - low) + 0.1;
        (low - margin)..(high + margin)
    }
}

impl PlottedSchedule {
    fn last_timestep(&self) -> f64 {
        (self.schedule.num_train_timesteps() - 1) as f64
    }

    /// A quantity over the share of the last timestep, where it is finite.
    fn curve(&self, quantity: Quantity) -> impl Iterator<Item = (f64, f64)> {
        let share = |point| point as f64 / POINTS as f64;
        (0..=POINTS)
            .map(move |point| {
                let rates = self.schedule.rates(share(point) * self.last_timestep());
                (share(point), quantity(rates))
            })
            .filter(|point| point.1.is_finite())
    }

    /// The quantity at the visited levels.
    fn marks(&self, quantity: Quantity) -> impl Iterator<Item = (f64, f64)> {
        let last = self.last_timestep().max(1.0);
        (self.visited.iter())
            .map(move |level| (level.timestep / last, quantity(level.rates)))
            .filter(|point| point.1.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use kiln_diffusion::{LevelOptions, ScheduleConfig, ScheduleKind, levels};

    use super::*;

    fn plotted(name: &str, config: ScheduleConfig, steps: usize) -> PlottedSchedule {
        let schedule = Schedule::new(config).unwrap();
        let mut visited = levels(&schedule, steps, LevelOptions::default()).unwrap();
        visited.pop();
        PlottedSchedule {
            name: name.into(),
            schedule,
            visited,
        }
    }

    #[test]
    fn every_schedule_has_its_curves_its_name_and_a_mark_for_every_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schedules.svg");
        let cosine = ScheduleConfig {
            kind: ScheduleKind::Cosine,
            ..Default::default()
        };
        let schedules = [
            plotted("first", ScheduleConfig::default(), 7),
            plotted("second", cosine, 5),
        ];
        plot_schedules(&schedules, &path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for word in ["first", "second", "signal rate", "log-SNR", "timestep"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        // The marks are on the signal rate, the noise rate and the log-SNR.
        assert_eq!(svg.matches("<circle").count(), 3 * (7 + 5));
    }

    #[test]
    fn schedules_without_an_end_in_log_snr_or_without_length_can_be_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let zero_snr = ScheduleConfig {
            zero_terminal_snr: true,
            ..Default::default()
        };
        let short = ScheduleConfig {
            num_train_timesteps: 1,
            ..Default::default()
        };
        let schedules = [plotted("zero", zero_snr, 9), plotted("short", short, 1)];
        for schedules in [&schedules[..], &schedules[1..], &[]] {
            plot_schedules(schedules, &folder.path().join("schedules.png")).unwrap();
        }
    }
}
