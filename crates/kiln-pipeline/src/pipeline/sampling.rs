//! From noise, or from a given image, to images.

use burn::tensor::Tensor;
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::sampler::{InpaintOptions, Known, StepTaken, inpaint};
use kiln_diffusion::{Denoiser, DiffusionError, Level, last_part, levels, levels_at};
use kiln_kernels::with_precision;

use super::drawing::{Order, Wanted};
use super::mask;
use super::model::Pipeline;
use super::observed::{Eyes, Observed};
use super::options::SampleOptions;
use crate::Error;
use crate::pictures::Images;

/// The beginning of images.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Start<'a> {
    /// Pure noise.
    Noise,
    /// Image to image (SDEdit, Meng et al. 2022): this one image plus the noise of the level where the last `strength`
    /// of the trajectory begins.
    Image {
        /// The image; the first one if there are several.
        original: &'a Images,
        /// A share from 0 to 1: with 0 only the first stage changes the image, with 1 nothing is left of it.
        strength: f64,
    },
}

impl Pipeline {
    /// Draws images in about [-1, 1]: `options.count` of each class, one class after the other. `batch` images at a
    /// time begin as noise. An observer sees them then and after every step.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for a number of steps or an `eta` that the schedule does not allow, the errors of
    /// [`Self::check_classes`], [`Error::Memory`] for too many images, [`Error::NetworkNotFinite`] and
    /// [`Error::NotFinite`] for a broken model, the observer's error, and [`Error::Compute`] if the device fails.
    pub fn sample<'a>(&self, options: impl Into<Observed<'a>>) -> Result<Images, Error> {
        self.sample_all(Start::Noise, options.into())
    }

    /// Like [`Self::sample`], but draws these images instead of the ones that the options request.
    ///
    /// # Errors
    /// The errors of [`Self::sample`].
    pub fn sample_wanted<'a>(
        &self,
        wanted: &[Wanted],
        options: impl Into<Observed<'a>>,
    ) -> Result<Images, Error> {
        let Observed { options, eyes } = options.into();
        let levels = self.trajectory(options)?;
        let begin = |noise: &ImageNoise| noise.draw(0);
        self.gathered(self.order_these(wanted, options)?, |order, take| {
            self.walk(order, &levels, begin, eyes, take)
        })
    }

    /// Like [`Self::sample`], but passes each batch to `take` as soon as it is finished. Only one batch is in memory,
    /// for any number of images.
    ///
    /// # Errors
    /// The errors of [`Self::sample`] and, from an image, of [`Self::image_to_image`]; the error of `take`.
    pub fn sample_each<'a>(
        &self,
        start: Start<'_>,
        options: impl Into<Observed<'a>>,
        take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Observed { options, eyes } = options.into();
        let order = self.order(options)?;
        self.walk_from(start, order, options, eyes, take)
    }

    fn sample_all(&self, start: Start<'_>, options: Observed<'_>) -> Result<Images, Error> {
        let Observed { options, eyes } = options;
        self.gathered(self.order(options)?, |order, take| {
            self.walk_from(start, order, options, eyes, take)
        })
    }

    fn walk_from(
        &self,
        start: Start<'_>,
        order: Order<'_, impl Iterator<Item = Wanted>>,
        options: &SampleOptions,
        eyes: Eyes<'_>,
        take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (levels, z0) = match start {
            Start::Noise => (self.trajectory(options)?, None),
            Start::Image { original, strength } => {
                let levels = self.last_part(options, strength)?;
                let z0 = with_precision(options.precision, || self.encode(&original.first(1)))?;
                // Sampling assumes that the first level is pure noise.
                let is_whole = levels.len() > options.steps;
                (levels, (!is_whole).then_some(z0))
            }
        };
        let begin = |noise: &ImageNoise| {
            let noise = noise.draw(0);
            match (&z0, levels.first()) {
                (Some(z0), Some(level)) => level
                    .rates
                    .add_noise(z0.clone().expand(noise.dims()), noise),
                _ => noise,
            }
        };
        self.walk(order, &levels, begin, eyes, take)
    }

    /// Like [`Self::sample`], with your own sampler. It walks from a batch of noises `[batch, channels, h, w]` down the
    /// levels of [`Self::trajectory`] to clean latents of the same shape. It may call the denoiser, which has the
    /// model's guidance, any number of times.
    ///
    /// # Errors
    /// The errors of [`Self::sample`]. [`Error::NetworkNotFinite`] has the timestep, but not the number of your step.
    pub fn sample_with(
        &self,
        options: &SampleOptions,
        sampler: impl Fn(&dyn Denoiser, Tensor<4>, &[Level]) -> Tensor<4>,
    ) -> Result<Images, Error> {
        let levels = self.trajectory(options)?;
        let walk =
            |denoiser: &dyn Denoiser,
             start: Tensor<4>,
             _: &ImageNoise,
             _: &mut dyn FnMut(StepTaken<'_>)| Ok(sampler(denoiser, start, &levels));
        let begin = |noise: &ImageNoise| noise.draw(0);
        self.gathered(self.order(options)?, |order, take| {
            self.draw(order, &levels, begin, walk, Eyes::closed(), take)
        })
    }

    /// Like [`Self::sample`], but from the given noises `[count, channels, h, w]`: one image for each, of the first
    /// class.
    ///
    /// # Errors
    /// The errors of [`Self::sample`].
    pub fn sample_from<'a>(
        &self,
        noises: Tensor<4>,
        options: impl Into<Observed<'a>>,
    ) -> Result<Images, Error> {
        let Observed { options, eyes } = options.into();
        let [count, ..] = noises.dims();
        let class = options.classes.first().copied();
        let wanted: Vec<Wanted> = (0..count as u64)
            .map(|image| Wanted { image, class })
            .collect();
        let levels = self.trajectory(options)?;
        let begin = |noise: &ImageNoise| {
            let numbers = noise.images.iter().map(|&image| image as usize).collect();
            noises.clone().select(0, self.integers(numbers))
        };
        self.gathered(self.order_these(&wanted, options)?, |order, take| {
            self.walk(order, &levels, begin, eyes, take)
        })
    }

    /// Image to image: like [`Self::sample`], but from [`Start::Image`].
    ///
    /// With `strength` 0 only the VQ-VAE changes the image, with 1 the image begins as pure noise, as in
    /// [`Self::sample`] with these options.
    ///
    /// # Errors
    /// The errors of [`Self::sample`], [`Self::encode`] and [`Self::last_part`].
    pub fn image_to_image<'a>(
        &self,
        original: &Images,
        strength: f64,
        options: impl Into<Observed<'a>>,
    ) -> Result<Images, Error> {
        self.sample_all(Start::Image { original, strength }, options.into())
    }

    /// Fills in part of the one image `original`: see [`inpaint`]. `mask` has one channel and says where: 1 (white) is
    /// filled in, -1 (black) stays unchanged, grays mix both. With the sampler `consistency`, for distilled models, the steps
    /// [forget](InpaintOptions::forgets) the noise that they came from.
    ///
    /// The network works on latents, and a latent is filled in if any of its pixels is lighter than the middle gray.
    /// Latents beside the hole are kept, although their encoder has seen a little of the hole's content. At the end the
    /// original is restored wherever the mask is black, bit for bit. Original pixels are therefore beside decoded ones
    /// where a black part of the mask meets a white one; a gray rim in the mask softens that seam.
    ///
    /// # Errors
    /// The errors of [`Self::sample`] and [`Self::encode`], and [`Error::MaskShape`] for a mask of another shape.
    pub fn inpaint<'a>(
        &self,
        original: &Images,
        mask: &Images,
        inpaint_options: InpaintOptions,
        options: impl Into<Observed<'a>>,
    ) -> Result<Images, Error> {
        let Observed { options, eyes } = options.into();
        let original = original.first(1);
        let levels = self.trajectory(options)?;
        let inpaint_options = InpaintOptions {
            forgets: options.sampler.segments() == Some(1),
            ..inpaint_options
        };
        mask::check(mask, &original)?;
        let [_, height, width] = self.latent_shape;
        let padded = mask.clone().padded(self.border());
        let known = Known {
            z0: with_precision(options.precision, || self.encode(&original))?,
            unknown: mask::unknown_latents(&padded, height, width, &self.device),
        };
        let walk = |denoiser: &dyn Denoiser,
                    start: Tensor<4>,
                    noise: &ImageNoise,
                    observe: &mut dyn FnMut(StepTaken<'_>)| {
            let fresh_noise = &mut |draw| noise.draw(draw);
            inpaint(
                denoiser,
                start,
                &levels,
                &known,
                inpaint_options,
                fresh_noise,
                observe,
            )
        };
        let begin = |noise: &ImageNoise| noise.draw(0);
        let drawn = self.gathered(self.order(options)?, |order, take| {
            self.draw(order, &levels, begin, walk, eyes, take)
        })?;
        Ok(mask::paste(&original, mask, &drawn))
    }

    /// The levels of sampling with `options`. This checks the options before any work.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for steps or timesteps that the schedule does not allow.
    pub fn trajectory(&self, options: &SampleOptions) -> Result<Vec<Level>, Error> {
        let steps = options.steps;
        Ok(match &options.timesteps {
            None => levels(&self.schedule, steps, options.levels)?,
            Some(listed) if listed.len() == steps => {
                levels_at(&self.schedule, listed, options.levels.final_level)?
            }
            Some(listed) => {
                let listed = listed.len();
                return Err(DiffusionError::TimestepsCount { listed, steps }.into());
            }
        })
    }

    /// The last `strength` of [`Self::trajectory`], a share from 0 to 1 of its steps, rounded: the rest of the walk
    /// from a given image.
    ///
    /// # Errors
    /// The errors of [`Self::trajectory`], and an error for a strength outside [0, 1].
    pub fn last_part(&self, options: &SampleOptions, strength: f64) -> Result<Vec<Level>, Error> {
        Ok(last_part(&self.trajectory(options)?, strength)?.to_vec())
    }
}
