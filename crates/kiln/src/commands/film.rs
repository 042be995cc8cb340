//! Collects moments of the denoising while images are drawn: frames of a GIF, columns of a strip.

use kiln::pictures::{Picture, grid};
use kiln::{Error, Images, Moment, Pipeline};

/// The frames of a GIF, or the columns of a strip, while they are being collected, batch after batch.
pub struct Film {
    /// After how many steps each frame is taken.
    moments: Vec<usize>,
    frames: Vec<Images>,
}

impl Film {
    /// `frames` moments spread evenly over the denoising, from pure noise to the finished image; fewer if there are
    /// not as many steps.
    pub fn new(frames: usize, steps: usize) -> Self {
        let intervals = frames.saturating_sub(1).max(1);
        let mut moments: Vec<usize> = (0..frames)
            .map(|frame| (frame * steps + intervals / 2) / intervals)
            .collect();
        moments.dedup();
        let frames = vec![Images::empty(0, 0, 0); moments.len()];
        Self { moments, frames }
    }

    /// Keeps a batch's images if this is the moment of a frame.
    pub fn record(&mut self, pipeline: &Pipeline, moment: Moment<'_>) -> Result<(), Error> {
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
    pub fn pictures(&self, columns: usize) -> Vec<Picture> {
        self.frames
            .iter()
            .map(|frame| grid(frame, columns))
            .collect()
    }

    /// A row of frames for each of the first `rows` images.
    pub fn strip(&self, rows: usize) -> Picture {
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
