//! Collects the frames of a GIF while images are drawn.

use kiln::pictures::{Picture, grid};
use kiln::{Error, Images, Moment, Pipeline};

/// The frames of a GIF while they are being collected, batch after batch.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_film_begins_with_noise_and_ends_with_the_image() {
        assert_eq!(Film::new(5, 100).moments, [0, 25, 50, 75, 100]);
        assert_eq!(Film::new(25, 3).moments, [0, 1, 2, 3]);
        assert!(Film::new(0, 50).moments.is_empty());
    }
}
