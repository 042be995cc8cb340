//! Measures many ways to sample one model.

use std::time::Instant;

use burn::tensor::Device;
use kiln::{Observer, Pipeline, SampleOptions};
use kiln_eval::{EvalError, Features, Figure, Judge, Reference, Seen, nearest};
use kiln_train::seen_in;

use super::landmarks::pixels_of;
use super::report::Row;

/// A model, and the judge of its images.
pub struct Sweep<'a> {
    /// The model.
    pub pipeline: &'a Pipeline,
    /// The judge of its images.
    pub judge: &'a Judge,
    /// The real images to compare with.
    pub reference: &'a Reference,
    /// Training images' pixels, and the distances of held-out images to them, to find memorised images.
    pub training: Option<(&'a Features, &'a [f64])>,
    /// The judge's device.
    pub device: &'a Device,
}

impl Sweep<'_> {
    /// Draws images with `options` and measures them; `observer` sees each step of each batch.
    ///
    /// # Errors
    /// Those of [`Pipeline::sample`], and [`EvalError`] for too few images or images that the judge cannot read.
    pub fn measure(
        &self,
        options: &SampleOptions,
        observer: &mut Observer<'_>,
    ) -> anyhow::Result<Row> {
        let began = Instant::now();
        let mut images = self.pipeline.sample(options.observed(observer))?;
        let seconds = began.elapsed().as_secs_f64();
        let classes = &options.classes;
        if !classes.is_empty() {
            // The classes take turns, so that a batch, or the first images, are not all of one class.
            let in_turns = |place| place % classes.len() * options.count + place / classes.len();
            images = images.select((0..images.len()).map(in_turns));
        }
        let seen = seen_in(self.judge, &images, self.device, |_| Ok(()))?;
        let mut figures = self.reference.compare(&seen, options.seed)?;
        if let (Seen::Digits(readings), false) = (&seen, classes.is_empty()) {
            let asked_for = classes.iter().copied().cycle().take(images.len());
            let accuracy = readings.accuracy(&asked_for.collect::<Vec<usize>>());
            figures.push(Figure::new("as asked", accuracy));
        }
        if let Some((training, held_out)) = self.training {
            let share = memorised(&pixels_of(&images)?, training, held_out)?;
            figures.push(Figure::new("near training", share));
        }
        Ok(Row {
            images: images.len(),
            seconds: Some(seconds),
            figures,
            ..Row::of(options)
        })
    }
}

/// The share of `drawn` images that are nearer to a training image than 99% of held-out images are, by the Euclidean
/// distance of pixels: 0.01 for images like the held-out ones, more for memorised images.
///
/// `held_out` are the distances of held-out images to their nearest training image.
///
/// # Errors
/// [`EvalError::TooFew`] without any images, [`EvalError::Lengths`] for images of different sizes.
pub fn memorised(
    drawn: &Features,
    training: &Features,
    held_out: &[f64],
) -> Result<f64, EvalError> {
    let mut sorted = held_out.to_vec();
    sorted.sort_by(f64::total_cmp);
    let nearly_nearest = sorted.get(sorted.len() / 100).copied().unwrap_or_default();
    let distances = nearest(drawn, training)?;
    let near = distances
        .iter()
        .filter(|(_, distance)| *distance < nearly_nearest);
    Ok(near.count() as f64 / distances.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_nearer_than_nearly_all_held_out_ones_are_counted() {
        let line = |values: &[f32]| Features::new(values.to_vec(), 1).unwrap();
        let training = line(&[0.0, 10.0, 20.0]);
        let held_out: Vec<f64> = (0..200).map(|place| 1.0 + f64::from(place)).collect();
        // A hundredth of them are nearer than 3.
        let drawn = line(&[0.0, 12.0, 14.0, 24.0]);
        assert_eq!(memorised(&drawn, &training, &held_out).unwrap(), 0.5);
    }
}
