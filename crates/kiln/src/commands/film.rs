//! Collects moments of the denoising while images are drawn: frames of a GIF, columns of a strip.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln::pictures::{Picture, grid, save_gif, save_png};
use kiln::{Error, Images, Moment, Pipeline};
use serde::Serialize;

/// Images of a strip, each in its row.
const ROWS: usize = 8;

/// Which pictures of the denoising itself are wanted.
#[derive(Args)]
pub struct FilmArguments {
    /// Also write the denoising as an animated GIF
    #[arg(long)]
    gif: bool,

    /// Frames in such a GIF
    #[arg(long, default_value_t = 25, value_name = "N", requires = "gif", value_parser = clap::value_parser!(u32).range(2..=1000))]
    gif_frames: u32,

    /// Also write the denoising of the first images as a strip: a row each, of so many moments
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1000))]
    strip: Option<u32>,
}

/// The pictures of one denoising that are wanted, while they are being collected.
pub struct Films {
    gif: Option<Film>,
    strip: Option<Film>,
}

/// Where they were written.
#[derive(Serialize)]
pub struct FilmPaths {
    pub gif: Option<PathBuf>,
    pub strip: Option<PathBuf>,
}

impl FilmArguments {
    /// Before the first of `steps` steps.
    pub fn begin(&self, steps: usize) -> Films {
        let film = |frames: u32| Film::new(frames as usize, steps);
        Films {
            gif: self.gif.then(|| film(self.gif_frames)),
            strip: self.strip.map(film),
        }
    }
}

impl Films {
    /// Keeps what is needed of a batch's moment.
    pub fn record(&mut self, pipeline: &Pipeline, moment: Moment<'_>) -> Result<(), Error> {
        for film in [&mut self.gif, &mut self.strip].into_iter().flatten() {
            film.record(pipeline, moment)?;
        }
        Ok(())
    }

    /// Writes `STEM.gif`, in as many `columns` as the grid beside it, and `STEM-strip.png` to `folder`.
    pub fn save(&self, folder: &Path, stem: &str, columns: usize) -> anyhow::Result<FilmPaths> {
        let gif = (self.gif.as_ref()).map(|film| (film, folder.join(format!("{stem}.gif"))));
        if let Some((film, path)) = &gif {
            save_gif(&film.pictures(columns), path)?;
        }
        let strip =
            (self.strip.as_ref()).map(|film| (film, folder.join(format!("{stem}-strip.png"))));
        if let Some((film, path)) = &strip {
            save_png(&film.strip(ROWS), path)?;
        }
        Ok(FilmPaths {
            gif: gif.map(|(_, path)| path),
            strip: strip.map(|(_, path)| path),
        })
    }
}

impl FilmPaths {
    /// A line for each of them.
    pub fn in_words(&self) -> String {
        let line = |path: &Option<PathBuf>, what: &str| {
            path.as_ref()
                .map_or_else(String::new, |path| format!("{}  {what}\n", path.display()))
        };
        line(&self.gif, "the denoising") + &line(&self.strip, "the denoising, from left to right")
    }
}

/// The frames of a GIF, or the columns of a strip, while they are being collected, batch after batch.
struct Film {
    /// After how many steps each frame is taken.
    moments: Vec<usize>,
    frames: Vec<Images>,
}

impl Film {
    /// `frames` moments spread evenly over the denoising, from pure noise to the finished image; fewer if there are
    /// not as many steps.
    fn new(frames: usize, steps: usize) -> Self {
        let intervals = frames.saturating_sub(1).max(1);
        let mut moments: Vec<usize> = (0..frames)
            .map(|frame| (frame * steps + intervals / 2) / intervals)
            .collect();
        moments.dedup();
        let frames = vec![Images::empty(0, 0, 0); moments.len()];
        Self { moments, frames }
    }

    /// Keeps a batch's images if this is the moment of a frame.
    fn record(&mut self, pipeline: &Pipeline, moment: Moment<'_>) -> Result<(), Error> {
        if let Some(index) = self
            .moments
            .iter()
            .position(|&steps| steps == moment.steps_done)
        {
            self.frames[index].append(pipeline.decode(moment.latents.clone())?);
        }
        Ok(())
    }

    /// The frames as grids.
    fn pictures(&self, columns: usize) -> Vec<Picture> {
        self.frames
            .iter()
            .map(|frame| grid(frame, columns))
            .collect()
    }

    /// A row of frames for each of the first `rows` images.
    fn strip(&self, rows: usize) -> Picture {
        let mut moments = Images::empty(0, 0, 0);
        for frame in &self.frames {
            moments.append(frame.first(rows));
        }
        let columns = self.frames.len();
        let rows = moments.len() / columns.max(1);
        let numbers = (0..rows).flat_map(|row| (0..columns).map(move |column| column * rows + row));
        grid(&moments.select(numbers), columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_has_a_row_for_each_image() {
        let mut film = Film::new(3, 2);
        for (frame, values) in film
            .frames
            .iter_mut()
            .zip([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
        {
            *frame = Images::empty(1, 1, 1);
            frame.extend(&values);
        }
        let strip = film.strip(8).into_luma8();
        assert_eq!(strip.dimensions(), (3 * 3 + 2, 2 * 3 + 2));
        let row = |y: u32| [2, 5, 8].map(|x: u32| strip.get_pixel(x, y).0[0]);
        assert_eq!((row(2), row(5)), ([0, 128, 255], [255, 128, 0]));
        assert_eq!(film.strip(1).into_luma8().dimensions(), (11, 5));
    }

    #[test]
    fn a_film_begins_with_noise_and_ends_with_the_image() {
        assert_eq!(Film::new(5, 100).moments, [0, 25, 50, 75, 100]);
        assert_eq!(Film::new(25, 3).moments, [0, 1, 2, 3]);
        assert!(Film::new(0, 50).moments.is_empty());
    }
}
