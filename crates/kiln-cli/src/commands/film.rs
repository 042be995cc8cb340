//! Collects moments of the denoising while images are drawn: frames of a GIF, columns of a strip.

use std::path::PathBuf;

use burn::tensor::Tensor;
use clap::{ArgGroup, Args};
use kiln::pictures::{Album, Images, Labels, Picture, Saved, grid, labelled, paired_grid};
use kiln::{Error, Moment, Pipeline, SampleOptions};
use serde::Serialize;

use super::drawing::{PICTURES, class_names};
use super::numbers::whole;

/// Images of a strip, each in its row, if there are no classes.
const ROWS: usize = 8;

/// Which pictures of the denoising itself are wanted.
#[derive(Args)]
#[command(group = ArgGroup::new("film").args(["gif", "strip"]).multiple(true))]
pub struct FilmArguments {
    /// Also write the denoising as an animated GIF
    #[arg(long, help_heading = PICTURES)]
    gif: bool,

    /// Frames in such a GIF
    #[arg(long, help_heading = PICTURES, default_value_t = 25, value_name = "N", requires = "gif", value_parser = whole::<u32>(2..=1000, 25))]
    gif_frames: u32,

    /// Also write the denoising of the first images, or of the first of each class, as a strip: a row each, of so many moments
    #[arg(long, help_heading = PICTURES, value_name = "N", value_parser = whole::<u32>(2..=1000, 8))]
    strip: Option<u32>,

    /// In GIF and strip, show below the noisy images what the network takes for the clean ones
    #[arg(long, help_heading = PICTURES, requires = "film")]
    predicted: bool,
}

/// The requested pictures of one denoising, while they are being collected.
pub struct Films {
    gif: Option<Film>,
    strip: Option<Film>,
}

/// The paths of the written pictures.
#[derive(Default, Serialize)]
pub struct FilmPaths {
    pub gif: Option<PathBuf>,
    pub strip: Option<PathBuf>,
}

impl FilmArguments {
    /// Before the first of `steps` steps.
    pub fn begin(&self, steps: usize) -> Films {
        let film = |frames: u32| Film::new(frames as usize, steps, self.predicted);
        Films {
            gif: self.gif.then(|| film(self.gif_frames)),
            strip: self.strip.map(film),
        }
    }
}

impl Films {
    /// Stores the needed images of a batch's moment.
    pub fn record(&mut self, pipeline: &Pipeline, moment: Moment<'_>) -> Result<(), Error> {
        for film in [&mut self.gif, &mut self.strip].into_iter().flatten() {
            film.record(moment, |latents| pipeline.decode(latents.clone()))?;
        }
        Ok(())
    }

    /// Adds `STEM.gif`, in as many `columns` as the grid beside it, and `STEM-strip.png`, under a `title`. `options`
    /// describe the images.
    pub fn add_to(
        &self,
        album: &mut Album,
        stem: &str,
        columns: usize,
        title: &str,
        (pipeline, options): (&Pipeline, &SampleOptions),
    ) -> anyhow::Result<()> {
        if let Some(film) = &self.gif {
            album.add_gif(&gif_name(stem), &film.pictures(columns), false)?;
        }
        if let Some(film) = &self.strip {
            let names = class_names(pipeline, options);
            let numbers: Vec<usize> = match names.as_slice() {
                [] | [_] => (0..ROWS).collect(),
                names => (0..names.len())
                    .map(|class| class * options.count)
                    .collect(),
            };
            album.add_png(&strip_name(stem), &film.strip(&numbers, &names, title))?;
        }
        Ok(())
    }

    /// Their paths, after the album is saved.
    pub fn paths(&self, saved: &Saved, stem: &str) -> FilmPaths {
        FilmPaths {
            gif: self.gif.as_ref().map(|_| saved.path(&gif_name(stem))),
            strip: self.strip.as_ref().map(|_| saved.path(&strip_name(stem))),
        }
    }
}

fn gif_name(stem: &str) -> String {
    format!("{stem}.gif")
}

fn strip_name(stem: &str) -> String {
    format!("{stem}-strip.png")
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
    /// After how many steps each frame is taken, and how many steps there are.
    moments: Vec<usize>,
    steps: usize,
    frames: Vec<Images>,
    /// The network's prediction for each frame, if that was asked for.
    predicted: Option<Vec<Images>>,
}

impl Film {
    /// `frames` moments spread evenly over the denoising, from pure noise to the finished image; fewer if there are
    /// not as many steps.
    fn new(frames: usize, steps: usize, predicted: bool) -> Self {
        let intervals = frames.saturating_sub(1).max(1);
        let mut moments: Vec<usize> = (0..frames)
            .map(|frame| (frame * steps + intervals / 2) / intervals)
            .collect();
        moments.dedup();
        let frames = vec![Images::empty(0, 0, 0); moments.len()];
        Self {
            moments,
            steps,
            predicted: predicted.then(|| frames.clone()),
            frames,
        }
    }

    /// The frame after so many steps.
    fn frame_after(&self, steps: usize) -> Option<usize> {
        self.moments.iter().position(|&moment| moment == steps)
    }

    /// Stores a batch's images if this is the moment of a frame, and the network's prediction for them a step later.
    fn record(
        &mut self,
        moment: Moment<'_>,
        decode: impl Fn(&Tensor<4>) -> Result<Images, Error>,
    ) -> Result<(), Error> {
        let steps_done = moment.steps_done;
        if let Some(frame) = self.frame_after(steps_done) {
            self.frames[frame].append(decode(moment.latents)?);
        }
        let before = steps_done.checked_sub(1);
        let before = before.and_then(|before| self.frame_after(before));
        // The finished image is the prediction of the last step.
        let last = (steps_done == self.steps).then(|| self.moments.len().saturating_sub(1));
        if let Some(predicted) = &mut self.predicted {
            for frame in [before, last].into_iter().flatten() {
                predicted[frame].append(decode(moment.clean.unwrap_or(moment.latents))?);
            }
        }
        Ok(())
    }

    /// The frames as grids.
    fn pictures(&self, columns: usize) -> Vec<Picture> {
        match &self.predicted {
            Some(predicted) => (self.frames.iter().zip(predicted))
                .map(|(noisy, clean)| paired_grid(noisy, clean, columns))
                .collect(),
            None => (self.frames.iter())
                .map(|frame| grid(frame, columns))
                .collect(),
        }
    }

    /// A row of frames for each of the images with these numbers, and below it a row of predictions; `names` are their
    /// classes' names.
    fn strip(&self, numbers: &[usize], names: &[String], title: &str) -> Picture {
        let all = self.frames.first().map_or(0, Images::len);
        let numbers: Vec<usize> = (numbers.iter().copied())
            .filter(|&number| number < all)
            .collect();
        let mut cells = Images::empty(0, 0, 0);
        let mut rows = Vec::new();
        for (row, &number) in numbers.iter().enumerate() {
            let kinds = [
                Some((&self.frames, "")),
                self.predicted.as_ref().map(|frames| (frames, "predicted")),
            ];
            for (frames, kind) in kinds.into_iter().flatten() {
                for frame in frames {
                    cells.append(frame.select([number]));
                }
                let name = match names {
                    [one] if row == 0 => one.as_str(),
                    [_] => "",
                    names => names.get(row).map_or("", String::as_str),
                };
                rows.push(if kind.is_empty() { name } else { kind }.to_owned());
            }
        }
        let labels = Labels {
            title: title.to_owned(),
            rows: if rows.iter().all(String::is_empty) {
                Vec::new()
            } else {
                rows
            },
            columns: self.moments.iter().map(usize::to_string).collect(),
        };
        labelled(&grid(&cells, self.moments.len()), &labels)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// A film of three images over two steps, whose latents are the number of the image and of the step.
    fn film(predicted: bool) -> Film {
        let mut film = Film::new(3, 2, predicted);
        for batch in [[0.0, 0.1].as_slice(), &[0.2]] {
            let images = Tensor::<1>::from_floats(batch, &Device::flex()).reshape([-1, 1, 1, 1]);
            for steps_done in 0..=2 {
                let latents = images.clone() - 1.0 + 0.5 * steps_done as f32;
                let clean = latents.clone() + 0.4;
                let moment = Moment {
                    steps_done,
                    latents: &latents,
                    clean: (steps_done > 0).then_some(&clean),
                };
                film.record(moment, |latents| Ok(Images::from_tensor(latents.clone())?))
                    .unwrap();
            }
        }
        film
    }

    fn values(frames: &[Images]) -> Vec<Vec<i32>> {
        let rounded = |frame: &Images| {
            let values = frame.values().iter();
            values.map(|value| (value * 10.0).round() as i32).collect()
        };
        frames.iter().map(rounded).collect()
    }

    #[test]
    fn frames_hold_all_images_and_what_was_made_of_them() {
        let film = film(true);
        let noisy = [[-10, -9, -8], [-5, -4, -3], [0, 1, 2]];
        assert_eq!(values(&film.frames), noisy);
        // The first frame has the prediction of the first step, the last one that of the last step.
        let clean = [[-1, 0, 1], [4, 5, 6], [4, 5, 6]];
        assert_eq!(values(film.predicted.as_deref().unwrap()), clean);
    }

    #[test]
    fn a_strip_has_a_row_for_each_image_in_its_lower_right_corner() {
        let cells = |film: &Film, numbers: &[usize], names: &[String]| {
            let strip = film.strip(numbers, names, "ddim").into_luma8();
            let rows = numbers.len() as u32 * if film.predicted.is_some() { 2 } else { 1 };
            let (left, top) = (strip.width() - 11, strip.height() - (3 * rows + 2));
            let row = move |row: u32| {
                [2, 5, 8].map(|x| strip.get_pixel(left + x, top + 2 + 3 * row).0[0])
            };
            (0..rows).map(row).collect::<Vec<_>>()
        };
        let names = ["rose".to_owned(), "lily".to_owned()];
        assert_eq!(
            cells(&film(false), &[2, 0], &names),
            [[25, 89, 153], [0, 64, 128]]
        );
        let both = cells(&film(true), &[0], &[]);
        assert_eq!(both, [[0, 64, 128], [115, 179, 179]]);
    }

    #[test]
    fn a_film_begins_with_noise_and_ends_with_the_image() {
        assert_eq!(Film::new(5, 100, false).moments, [0, 25, 50, 75, 100]);
        assert_eq!(Film::new(25, 3, false).moments, [0, 1, 2, 3]);
        assert!(Film::new(0, 50, false).moments.is_empty());
    }
}
