//! The noises that images are drawn from: from seeds, from given images, and between noises.

use burn::tensor::{Tensor, TensorData};
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::sampler::{Sampler, StepTaken, invert};
use kiln_diffusion::{Denoiser, slerp};
use kiln_kernels::with_precision;

use super::drawing::Wanted;
use super::model::Pipeline;
use super::observed::Observed;
use super::options::SampleOptions;
use crate::Error;
use crate::pictures::Images;

/// Where a path through noises stops.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Stops<'a> {
    /// At the noises of the first image of each of these seeds.
    Seeds(&'a [u64]),
    /// At these noises, `[stops, channels, h, w]`.
    Noises(&'a Tensor<4>),
}

/// A path through noises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpolation {
    /// Pictures from each noise to the next, including both ends; at least 2.
    pub frames: usize,
    /// Whether the last noise leads back to the first.
    pub is_loop: bool,
}

impl Interpolation {
    /// The number of parts from one noise to the next.
    pub fn legs(&self, stops: usize) -> usize {
        if self.is_loop {
            stops
        } else {
            stops.saturating_sub(1)
        }
    }

    /// Noises along the path through `stops`, at even angles. The stops themselves are among them bit for bit, every
    /// `frames` - 1 noises from the first on. A loop ends just before it would reach its first noise again.
    fn noises(&self, stops: &[Vec<f32>]) -> Vec<f32> {
        let intervals = self.frames.saturating_sub(1).max(1);
        let nexts = stops.iter().cycle().skip(1);
        let mut noises = Vec::new();
        for (from, to) in stops.iter().zip(nexts).take(self.legs(stops.len())) {
            for frame in 0..intervals {
                noises.extend(slerp(from, to, frame as f64 / intervals as f64));
            }
        }
        if let (false, Some(last)) = (self.is_loop, stops.last()) {
            noises.extend(last);
        }
        noises
    }
}

impl Pipeline {
    /// The noise `[1, channels, h, w]` from which [`Self::sample`] draws image number `image` of a seed.
    pub fn noise(&self, seed: u64, image: u64) -> Tensor<4> {
        self.image_noise(seed, vec![image]).draw(0)
    }

    /// The noises `[count, channels, h, w]` from which DDIM without fresh noise (`eta` = 0) draws the given images
    /// again, approximately: see [`invert`]. An observer sees each batch after every step.
    ///
    /// # Errors
    /// [`Error::NoWayBack`] for a model that was distilled to draw by the sampler `consistency`, the errors of [`Self::encode`],
    /// [`Self::trajectory`] and [`Self::check_classes`], [`Error::NetworkNotFinite`] for a broken model, the observer's error, and [`Error::Compute`] if the device fails.
    pub fn invert<'a>(
        &self,
        images: &Images,
        refinements: usize,
        options: impl Into<Observed<'a>>,
    ) -> Result<Tensor<4>, Error> {
        let Observed { options, mut eyes } = options.into();
        if self.model.scheduler.sampler.segments().is_some() {
            return Err(Error::NoWayBack);
        }
        self.check_classes(options)?;
        let batch = options.batch.max(1);
        self.check_batch(images.len().min(batch), options)?;
        let levels = self.trajectory(options)?;
        // Clipped values cannot be restored.
        let options = SampleOptions {
            clip: None,
            ..options.clone()
        };
        let networks = self.networks(&levels, &options);
        let mut noises = Vec::new();
        for images in images.batches(batch) {
            let z0 = with_precision(options.precision, || self.encode(&images))?;
            let classes = vec![options.classes.first().copied(); images.len()];
            noises.push(eyes.follow(|watch, observe| {
                let denoiser = self.watched_denoiser(&networks, &classes, &options, watch)?;
                Ok(invert(&denoiser, z0, &levels, refinements, observe))
            })?);
        }
        if noises.is_empty() {
            let [channels, height, width] = self.latent_shape;
            return Ok(Tensor::zeros([0, channels, height, width], &self.device));
        }
        Ok(Tensor::cat(noises, 0))
    }

    /// Draws images along the path of [`Interpolation`] through `stops`, of the first class in `options`.
    ///
    /// With DDIM and no fresh noise, or with the sampler `consistency` if `options` have it. That one draws fresh noise on the
    /// way, which then goes from that of one seed to that of the next, too. Noises without a seed share that of
    /// `options.seed`.
    ///
    /// # Errors
    /// The errors of [`Self::sample`].
    pub fn interpolate<'a>(
        &self,
        stops: Stops<'_>,
        interpolation: Interpolation,
        options: impl Into<Observed<'a>>,
    ) -> Result<Images, Error> {
        let Observed { options, eyes } = options.into();
        let options = SampleOptions {
            sampler: match options.sampler {
                consistency @ Sampler::Consistency { .. } => consistency,
                _ => Sampler::default(),
            },
            ..options.clone()
        };
        let [channels, height, width] = self.latent_shape;
        let len = channels * height * width;
        let path = |stops: Tensor<4>| -> Result<Tensor<4>, Error> {
            let stops: Vec<f32> = stops.try_into_data_as::<f32>()?.iter::<f32>().collect();
            let stops = stops.chunks_exact(len.max(1)).map(<[f32]>::to_vec);
            let noises = interpolation.noises(&stops.collect::<Vec<_>>());
            let shape = [noises.len() / len.max(1), channels, height, width];
            Ok(Tensor::from_data(
                TensorData::new(noises, shape),
                &self.device,
            ))
        };
        let of_seeds = |seeds: &[u64], draw: usize| {
            let noises = seeds
                .iter()
                .map(|&seed| self.image_noise(seed, vec![0]).draw(draw));
            path(Tensor::cat(noises.collect(), 0))
        };
        let first = match stops {
            Stops::Seeds(seeds) => of_seeds(seeds, 0)?,
            Stops::Noises(noises) => path(noises.clone())?,
        };
        // The fresh noise of every step, if the sampler wants any.
        let draws = match options.sampler {
            Sampler::Consistency { .. } => 1..options.steps,
            _ => 0..0,
        };
        let fresh = draws.map(|draw| match stops {
            Stops::Seeds(seeds) => of_seeds(seeds, draw),
            Stops::Noises(_) => {
                let shared = self.image_noise(options.seed, vec![0]).draw(draw);
                Ok(shared.expand(first.dims()))
            }
        });
        let fresh = fresh.collect::<Result<Vec<_>, _>>()?;
        let class = options.classes.first().copied();
        let wanted: Vec<Wanted> = (0..first.dims()[0] as u64)
            .map(|image| Wanted { image, class })
            .collect();
        let levels = self.trajectory(&options)?;
        let of_batch = |noises: &Tensor<4>, noise: &ImageNoise| {
            let numbers = noise.images.iter().map(|&image| image as usize).collect();
            noises.clone().select(0, self.integers(numbers))
        };
        let begin = |noise: &ImageNoise| of_batch(&first, noise);
        let walk = |denoiser: &dyn Denoiser,
                    start: Tensor<4>,
                    noise: &ImageNoise,
                    observe: &mut dyn FnMut(StepTaken<'_>)| {
            let fresh_noise = &mut |step: usize| match fresh.get(step - 1) {
                Some(fresh) => of_batch(fresh, noise),
                None => noise.draw(step),
            };
            (options.sampler).sample(
                denoiser,
                start,
                &levels,
                &self.schedule,
                fresh_noise,
                observe,
            )
        };
        self.gathered(self.order_these(&wanted, &options)?, |order, take| {
            self.draw(order, &levels, begin, walk, eyes, take)
        })
    }

    /// The noises of images of a seed, by their numbers.
    pub(super) fn image_noise(&self, seed: u64, images: Vec<u64>) -> ImageNoise {
        ImageNoise {
            seed,
            images,
            shape: self.latent_shape,
            device: self.device.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops() -> Vec<Vec<f32>> {
        (0..3)
            .map(|seed| kiln_diffusion::noise::normal(seed, 0, 0, 8))
            .collect()
    }

    #[test]
    fn the_stops_are_on_the_way_bit_for_bit() {
        let interpolation = Interpolation {
            frames: 5,
            is_loop: false,
        };
        let noises = interpolation.noises(&stops());
        let noises: Vec<&[f32]> = noises.chunks_exact(8).collect();
        assert_eq!(noises.len(), 2 * 4 + 1);
        for (stop, noise) in stops().iter().zip(noises.into_iter().step_by(4)) {
            assert_eq!(noise, stop);
        }
    }

    #[test]
    fn a_loop_ends_before_it_begins_again() {
        let interpolation = Interpolation {
            frames: 5,
            is_loop: true,
        };
        assert_eq!((interpolation.legs(3), interpolation.legs(0)), (3, 0));
        let noises = interpolation.noises(&stops());
        let noises: Vec<&[f32]> = noises.chunks_exact(8).collect();
        assert_eq!(noises.len(), 3 * 4);
        assert_eq!(noises[11], slerp(&stops()[2], &stops()[0], 0.75));
    }
}
