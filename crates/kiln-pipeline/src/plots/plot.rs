//! The common parts of all plots: formats, files, colours.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;
use thiserror::Error;

use super::svg;
use crate::font::use_own_font;
use crate::pictures::{Album, PictureError, write_picture};

/// Distinguishable colours, in the order of the drawn lines.
pub(super) const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(23, 163, 184),
    RGBColor(140, 86, 75),
    RGBColor(90, 90, 90),
];

/// Lines across a plot at its ticks. It is opaque: see [`svg`].
pub(super) const GRID: RGBColor = RGBColor(208, 208, 208);

/// Why a plot was not drawn.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The extension names no supported format.
    #[error("cannot plot to {}: name a file that ends in .svg or .png", .0.display())]
    Extension(PathBuf),
    /// Something in the plot cannot be drawn.
    #[error("cannot draw the plot {}: {problem}", path.display())]
    Draw {
        /// The file.
        path: PathBuf,
        /// The message of plotters.
        problem: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] PictureError),
}

/// A plot that can be drawn in any format.
pub(super) trait Plot {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;
}

/// Draws `plot` and writes it to `path` in the format of its extension. An earlier plot there is replaced.
pub(super) fn save(plot: &impl Plot, path: &Path) -> Result<(), PlotError> {
    let bytes = drawn(plot, path)?;
    Ok(write_picture(path, |file| Ok(file.write_all(&bytes)?))?)
}

/// Draws `plot` and writes it to `path` in the format of its extension, beside existing files: see [`Album::save`].
/// Returns its path.
pub(super) fn save_new(plot: &impl Plot, path: &Path) -> Result<PathBuf, PlotError> {
    let bytes = drawn(plot, path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut album = Album::default();
    album.add_file(&name, bytes);
    let saved = album.save(path.parent().unwrap_or(Path::new("")))?;
    Ok(saved.path(&name))
}

/// The bytes of `plot` as a file in the format of the extension of `path`.
fn drawn(plot: &impl Plot, path: &Path) -> Result<Vec<u8>, PlotError> {
    use_own_font();
    let failed = |problem| draw_error(path, problem);
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_lowercase).as_deref() {
        Some("svg") => Ok(to_svg(plot).map_err(failed)?.into_bytes()),
        Some("png") => {
            let mut bytes = Cursor::new(Vec::new());
            let picture = to_picture(plot).map_err(failed)?;
            (picture.write_to(&mut bytes, ImageFormat::Png))
                .map_err(|error| failed(error.to_string()))?;
            Ok(bytes.into_inner())
        }
        _ => Err(PlotError::Extension(path.to_owned())),
    }
}

pub(super) fn draw_error(path: &Path, problem: String) -> PlotError {
    PlotError::Draw {
        path: path.to_owned(),
        problem,
    }
}

pub(super) fn to_svg(plot: &impl Plot) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, plot.size()).into_drawing_area();
        plot.draw(&area)
            .and_then(|()| area.present())
            .map_err(|error| error.to_string())?;
    }
    Ok(svg::plain(&svg))
}

fn to_picture(plot: &impl Plot) -> Result<RgbImage, String> {
    let (width, height) = plot.size();
    let mut picture = RgbImage::new(width, height);
    {
        let area = BitMapBackend::with_buffer(&mut picture, (width, height)).into_drawing_area();
        plot.draw(&area)
            .and_then(|()| area.present())
            .map_err(|error| error.to_string())?;
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::font::FONT;
    use crate::plots::{
        PlottedSchedule, QualityCurve, Rows, Units, plot_curves, plot_schedules, quality_svg,
    };

    struct Word;

    impl Plot for Word {
        fn size(&self) -> (u32, u32) {
            (60, 20)
        }

        fn draw<B: DrawingBackend>(
            &self,
            area: &DrawingArea<B, Shift>,
        ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
            area.fill(&WHITE)?;
            area.draw(&Text::new("noise", (4, 2), (FONT, 14)))
        }
    }

    #[test]
    fn svg_has_nothing_that_a_program_draws_in_another_way() {
        let folder = tempfile::tempdir().unwrap();
        let drawn = |draw: &dyn Fn(&Path) -> Result<(), PlotError>| {
            let path = folder.path().join("plot.svg");
            draw(&path).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        let rows = [0.5, 0.3].map(|loss| BTreeMap::from([("loss/train".to_owned(), loss)]));
        let rows: Rows = (1..).zip(rows).collect();
        let schedule = PlottedSchedule {
            name: "one".to_owned(),
            schedule: kiln_diffusion::Schedule::new(Default::default()).unwrap(),
            visited: Vec::new(),
        };
        let curve = QualityCurve {
            name: "ddim".to_owned(),
            points: vec![(5.0, 2.0), (10.0, 1.0)],
        };
        let landmark = ("real".to_owned(), 0.5);
        for svg in [
            drawn(&|path| plot_curves("opacity", "loss", &rows, &Units::new(), path)),
            drawn(&|path| plot_schedules(std::slice::from_ref(&schedule), path).map(drop)),
            quality_svg("FID", &[curve], &[landmark]).unwrap(),
        ] {
            assert!(svg.contains("<polyline") && svg.contains("<text"), "{svg}");
            for attribute in [" opacity=", " dy="] {
                assert!(!svg.contains(attribute), "{attribute} in {svg}");
            }
        }
    }

    #[test]
    fn a_word_is_legible_in_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let (svg, png) = (folder.path().join("a.svg"), folder.path().join("a.PNG"));
        save(&Word, &svg).unwrap();
        save(&Word, &png).unwrap();
        assert!(std::fs::read_to_string(&svg).unwrap().contains("noise"));
        let picture = image::load_from_memory(&std::fs::read(&png).unwrap()).unwrap();
        let dark = |pixel: &&image::Luma<u8>| pixel.0[0] < 96;
        let ink = picture.to_luma8().pixels().filter(dark).count();
        assert!((20..400).contains(&ink), "{ink} dark pixels");
    }

    #[test]
    fn other_formats_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plot.pdf", "plot", ".svg"] {
            let error = save_new(&Word, &folder.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(".svg or .png"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
