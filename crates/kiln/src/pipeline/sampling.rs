//! From noise, or from what is already there, down to images.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use kiln_checkpoint::LatentDiffusion;
use kiln_diffusion::{
    Denoiser, DiffusionError, Level, NetworkDenoiser, last_part, levels,
    noise::ImageNoise,
    sampler::{InpaintOptions, Known, Progress, inpaint},
};
use kiln_kernels::with_precision;
use kiln_models::{FeatureMaps, UNet2d};
use kiln_train::pictures::Images;

use super::finite::{Watch, require_finite};
use super::{Moment, Pipeline, SampleOptions, mask, watched};
use crate::{Error, memory::require_memory};

/// Numbers that a U-Net takes for each of its weights when it draws: they are transformed for its convolutions, and kept so.
const COPIES_OF_WEIGHTS: f64 = 3.0;

/// What images begin as.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Noise alone.
    Noise,
    /// Image to image (SDEdit, Meng et al. 2022): this one image with the noise of the level where the last `strength` of the
    /// trajectory begins.
    Image {
        /// The image, of which the first is taken if there are several.
        original: &'a Images,
        /// A share from 0 to 1: with 0 nothing is changed but by the first stage, with 1 nothing is left of the image.
        strength: f64,
    },
}

/// One of the images that are asked for: its number, and its class if it is to have one.
type Wanted = (u64, Option<usize>);

impl Pipeline {
    /// Draws images in about [-1, 1]: `options.count` of each class, one class after the other. Each of the `batch` images
    /// at a time begins as noise; `observe` sees them then and after every step.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for a number of steps or an `eta` that the schedule does not allow, those of
    /// [`Self::check_classes`], [`Error::NetworkNotFinite`] and [`Error::NotFinite`] for a broken model, whatever `observe`
    /// returns, and [`Error::Compute`] when the device fails.
    pub fn sample(
        &self,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        self.sample_all(Start::Noise, options, observe)
    }

    /// As [`Self::sample`], but each batch is handed to `take` as soon as it is finished: however many images are asked for,
    /// no more than a batch of them is in memory.
    ///
    /// # Errors
    /// Those of [`Self::sample`] and, from an image, of [`Self::image_to_image`]; whatever `take` returns.
    pub fn sample_each(
        &self,
        start: Start<'_>,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
        take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (levels, z0) = match start {
            Start::Noise => (self.trajectory(options)?, None),
            Start::Image { original, strength } => {
                let levels = self.last_part(options, strength)?;
                let z0 = with_precision(options.precision, || self.encode(&original.first(1)))?;
                // Sampling takes the first level for pure noise.
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
        self.walk(options, &levels, begin, observe, take)
    }

    /// As [`Self::sample`], with a sampler of your own: from a batch of noises `[batch, channels, h, w]` it walks down the
    /// levels of [`Self::trajectory`] to clean latents of the same shape. It may ask the denoiser, guided as the model is, as
    /// often as it likes.
    ///
    /// # Errors
    /// Those of [`Self::sample`]. [`Error::NetworkNotFinite`] knows the timestep, but not which step of yours it was.
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
             _: &mut dyn FnMut(Progress<'_>)| Ok(sampler(denoiser, start, &levels));
        let begin = |noise: &ImageNoise| noise.draw(0);
        self.gathered(options, |take| {
            self.draw(options, begin, walk, |_| Ok(()), take)
        })
    }

    fn sample_all(
        &self,
        start: Start<'_>,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        self.gathered(options, |take| {
            self.sample_each(start, options, observe, take)
        })
    }

    /// As [`Self::sample`], from noises `[count, channels, h, w]` of the caller's: one image for each, of the first class.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn sample_from(
        &self,
        noises: Tensor<4>,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        let [count, ..] = noises.dims();
        let options = SampleOptions {
            count,
            classes: options.classes.first().copied().into_iter().collect(),
            ..options.clone()
        };
        let levels = self.trajectory(&options)?;
        let begin = |noise: &ImageNoise| {
            let numbers: Vec<i64> = noise.images.iter().map(|&image| image as i64).collect();
            noises.clone().select(0, self.integers(numbers))
        };
        self.gathered(&options, |take| {
            self.walk(&options, &levels, begin, observe, take)
        })
    }

    /// Image to image: as [`Self::sample`], but from [`Start::Image`].
    ///
    /// With `strength` 0 nothing is changed but by the VQ-VAE, with 1 the image begins as noise alone, as in
    /// [`Self::sample`] with these options.
    ///
    /// # Errors
    /// Those of [`Self::sample`], [`Self::encode`] and [`Self::last_part`].
    pub fn image_to_image(
        &self,
        original: &Images,
        strength: f64,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        self.sample_all(Start::Image { original, strength }, options, observe)
    }

    /// Fills in part of the one image `original`: see [`inpaint`]. `mask` has one channel and says where: 1 (white) is to
    /// be filled in, -1 (black) stays as it is, grays mix both.
    ///
    /// The network works on latents, and a latent is filled in if any of its pixels is lighter than the middle gray.
    /// Latents beside the hole are kept, though the encoder that made them has seen a little of what was in the hole.
    /// At last the original is put back wherever the mask is black, bit for bit: where a black part meets a white one,
    /// original pixels stand beside decoded ones, and a gray rim in the mask makes that seam soft.
    ///
    /// # Errors
    /// Those of [`Self::sample`] and [`Self::encode`], and [`Error::MaskShape`] for a mask of another shape.
    pub fn inpaint(
        &self,
        original: &Images,
        mask: &Images,
        inpaint_options: InpaintOptions,
        options: &SampleOptions,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        let original = original.first(1);
        let levels = self.trajectory(options)?;
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
                    observe: &mut dyn FnMut(Progress<'_>)| {
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
        let drawn = self.gathered(options, |take| {
            self.draw(options, begin, walk, observe, take)
        })?;
        Ok(mask::paste(&original, mask, &drawn))
    }

    /// The levels that sampling with `options` walks down: whether they are possible is known before any work.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for a number of steps that the schedule does not allow.
    pub fn trajectory(&self, options: &SampleOptions) -> Result<Vec<Level>, Error> {
        Ok(levels(&self.schedule, options.steps, options.levels)?)
    }

    /// The last `strength` of [`Self::trajectory`], a share from 0 to 1 of its steps, rounded: what is left to walk from
    /// an image that is already there.
    ///
    /// # Errors
    /// Those of [`Self::trajectory`], and a strength outside [0, 1].
    pub fn last_part(&self, options: &SampleOptions, strength: f64) -> Result<Vec<Level>, Error> {
        Ok(last_part(&self.trajectory(options)?, strength)?.to_vec())
    }

    /// Walks all images that `options` ask for down `levels` by their sampler.
    fn walk(
        &self,
        options: &SampleOptions,
        levels: &[Level],
        begin: impl Fn(&ImageNoise) -> Tensor<4>,
        observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
        take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let walk = |denoiser: &dyn Denoiser,
                    start: Tensor<4>,
                    noise: &ImageNoise,
                    observe: &mut dyn FnMut(Progress<'_>)| {
            let fresh_noise = &mut |step| noise.draw(step);
            (options.sampler).sample(
                denoiser,
                start,
                levels,
                &self.schedule,
                fresh_noise,
                observe,
            )
        };
        self.draw(options, begin, walk, observe, take)
    }

    /// Draws all images that `options` ask for, a batch at a time: `begin` says what they begin as, `walk` denoises them.
    fn draw(
        &self,
        options: &SampleOptions,
        begin: impl Fn(&ImageNoise) -> Tensor<4>,
        walk: impl Fn(
            &dyn Denoiser,
            Tensor<4>,
            &ImageNoise,
            &mut dyn FnMut(Progress<'_>),
        ) -> Result<Tensor<4>, DiffusionError>,
        mut observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
        mut take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check_classes(options)?;
        self.check_batch(options.images().min(options.batch.max(1)), options)?;
        let mut left = all_wanted(options).peekable();
        while left.peek().is_some() {
            let wanted: Vec<Wanted> = left.by_ref().take(options.batch.max(1)).collect();
            let noise = ImageNoise {
                seed: options.seed,
                images: wanted.iter().map(|&(image, _)| image).collect(),
                shape: self.latent_shape,
                device: self.device.clone(),
            };
            let classes: Vec<_> = wanted.iter().map(|&(_, class)| class).collect();
            let start = begin(&noise);
            observe(Moment {
                steps_done: 0,
                latents: &start,
                clean: None,
            })?;
            let latents = watched(Watch::default(), &mut observe, |watch, observe| {
                let denoiser = self.denoiser(&classes, options, watch)?;
                Ok(walk(&denoiser, start, &noise, observe)?)
            })?;
            let latents = require_finite(latents, "what the sampler ends with")?;
            take(with_precision(options.precision, || self.decode(latents))?)?;
        }
        Ok(())
    }

    /// Refuses to denoise so many images together where they do not fit into memory.
    pub(super) fn check_batch(&self, images: usize, options: &SampleOptions) -> Result<(), Error> {
        let LatentDiffusion { unet, guide, .. } = &self.model;
        let [_, height, width] = self.latent_shape;
        let maps = FeatureMaps::of_unet(unet.config(), [height, width]).drawing;
        // Without a guide, the network sees each image with its class and without it.
        let is_guided =
            guide.is_none() && self.classes.is_some() && options.guidance.scale() != 1.0;
        let maps = if is_guided { 2.0 * maps } else { maps };
        let maps = maps.max(self.autoencoder_maps());
        let weights = COPIES_OF_WEIGHTS * unet.num_params() as f64;
        require_memory(&self.device, images, images as f64 * maps + weights)
    }

    /// All images that `draw` hands out, together; refused where so many do not fit into memory.
    fn gathered(
        &self,
        options: &SampleOptions,
        draw: impl FnOnce(&mut dyn FnMut(Images) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        let count = options.images();
        let shape = self.image_shape();
        let numbers = shape.channels as f64 * shape.height as f64 * shape.width as f64;
        require_memory(&self.device, count, count as f64 * numbers)?;
        let mut all = Images::empty(0, 0, 0);
        draw(&mut |images| {
            all.append(images);
            Ok(())
        })?;
        Ok(all)
    }

    /// The U-Net as a denoiser of a batch of images of these classes, guided as `options` say, with a `watch` on what it
    /// answers.
    pub(super) fn denoiser<'a>(
        &'a self,
        classes: &[Option<usize>],
        options: &'a SampleOptions,
        watch: &'a Watch,
    ) -> Result<impl Denoiser + 'a, Error> {
        let output = move |unet: &UNet2d, zt: Tensor<4>, level: Level, labels| {
            let noise_power = level.rates.noise_power();
            with_precision(options.precision, || {
                unet.forward_at(zt, level.timestep, noise_power, labels)
            })
        };
        let LatentDiffusion { unet, guide, .. } = &self.model;
        let conditions = self.labels(classes)?;
        let guided = move |zt: Tensor<4>, level: Level| {
            let labels = || conditions.as_ref().map(|(labels, _)| labels.clone());
            let network = |zt| output(unet, zt, level, labels());
            match (guide, &conditions) {
                (Some(guide), _) => {
                    let worse = |zt| output(&guide.unet, zt, level, labels());
                    options.guidance.guide_by(zt, level, network, worse)
                }
                (None, Some((labels, Some(null_label)))) => {
                    let network = |zt, labels| output(unet, zt, level, Some(labels));
                    (options.guidance).guide(zt, level, labels, *null_label, network)
                }
                (None, _) => network(zt),
            }
        };
        Ok(NetworkDenoiser {
            network: move |zt: Tensor<4>, level: Level| {
                watch.ask(zt, level, |zt| guided(zt, level))
            },
            prediction: self.model.scheduler.prediction,
            clip: options.clip,
        })
    }

    /// The labels of images of these classes, if the model knows classes.
    fn labels(&self, classes: &[Option<usize>]) -> Result<Option<Labels>, Error> {
        let Some(known) = &self.classes else {
            return Ok(None);
        };
        let labels: Result<Vec<i64>, Error> = (classes.iter())
            .map(|&class| Ok(known.label(class)? as i64))
            .collect();
        Ok(Some((self.integers(labels?), known.null_label())))
    }

    fn integers(&self, values: Vec<i64>) -> Tensor<1, Int> {
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), &self.device)
    }
}

/// The labels of a batch, `[batch]`, and that of the null class, if there is one.
type Labels = (Tensor<1, Int>, Option<usize>);

/// Every image that is asked for: the numbers from 0 for each class.
fn all_wanted(options: &SampleOptions) -> impl Iterator<Item = Wanted> {
    let classes = match options.classes.as_slice() {
        [] => vec![None],
        classes => classes.iter().copied().map(Some).collect(),
    };
    let count = options.count as u64;
    (classes.into_iter()).flat_map(move |class| (0..count).map(move |image| (image, class)))
}
