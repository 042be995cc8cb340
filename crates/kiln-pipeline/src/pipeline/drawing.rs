//! The one path from noise to images. All code that draws with a model uses it, including a training's pictures.
//!
//! ```text
//! numbers, classes -> noise, labels -> denoiser, guided -> sampler, down its levels -> latents -> first stage -> images, cropped
//! ```

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_checkpoint::DiffusionModel;
use kiln_diffusion::noise::ImageNoise;
use kiln_diffusion::sampler::StepTaken;
use kiln_diffusion::{Denoiser, DiffusionError, Level};
use kiln_kernels::with_precision;
use kiln_models::FeatureMaps;

use super::finite::require_finite;
use super::model::Pipeline;
use super::observed::{Eyes, Moment};
use super::options::SampleOptions;
use crate::pictures::Images;
use crate::{Error, memory::require_memory};

/// The count of numbers per weight when a U-Net draws: weights are transformed for the convolutions, and kept in that
/// form.
const COPIES_OF_WEIGHTS: f64 = 3.0;

/// One requested image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its number, which determines its noise: see [`Pipeline::noise`].
    pub image: u64,
    /// Its class. `None` draws from the null class or, for a model without classes, from everything.
    pub class: Option<usize>,
}

impl SampleOptions {
    /// All requested images: the numbers from `first` on for each class.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> + use<> {
        let numbers = self.first..self.first.saturating_add(self.count as u64);
        let images = move |class| (numbers.clone()).map(move |image| Wanted { image, class });
        self.conditions().flat_map(images)
    }
}

/// Images that the model can draw, after a check.
pub(super) struct Order<'a, W> {
    options: &'a SampleOptions,
    count: usize,
    wanted: W,
}

impl Pipeline {
    /// The images that `options` request.
    ///
    /// # Errors
    /// The errors of [`Self::check_classes`], and [`Error::Memory`] for too many images together.
    pub(super) fn order<'a>(
        &self,
        options: &'a SampleOptions,
    ) -> Result<Order<'a, impl Iterator<Item = Wanted> + use<>>, Error> {
        self.check_classes(options)?;
        self.order_of(options.images(), options.wanted(), options)
    }

    /// These images instead of the ones that `options` request.
    ///
    /// # Errors
    /// The errors of [`Self::order`].
    pub(super) fn order_these<'a>(
        &self,
        wanted: &'a [Wanted],
        options: &'a SampleOptions,
    ) -> Result<Order<'a, impl Iterator<Item = Wanted> + use<'a>>, Error> {
        for wanted in wanted {
            self.label(wanted.class, options.guidance)?;
        }
        self.order_of(wanted.len(), wanted.iter().copied(), options)
    }

    fn order_of<'a, W>(
        &self,
        count: usize,
        wanted: W,
        options: &'a SampleOptions,
    ) -> Result<Order<'a, W>, Error> {
        self.check_batch(count.min(options.batch.max(1)), options)?;
        Ok(Order {
            options,
            count,
            wanted,
        })
    }

    /// Draws the images of an `order`, a batch at a time: `begin` makes their first latents, `walk` denoises them along
    /// `levels`, and `take` gets them.
    pub(super) fn draw(
        &self,
        order: Order<'_, impl Iterator<Item = Wanted>>,
        levels: &[Level],
        begin: impl Fn(&ImageNoise) -> Tensor<4>,
        walk: impl Fn(
            &dyn Denoiser,
            Tensor<4>,
            &ImageNoise,
            &mut dyn FnMut(StepTaken<'_>),
        ) -> Result<Tensor<4>, DiffusionError>,
        mut eyes: Eyes<'_>,
        mut take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let options = order.options;
        let mut left = order.wanted.peekable();
        let draw_all = || {
            let networks = self.networks(levels, options);
            while left.peek().is_some() {
                let batch: Vec<Wanted> = left.by_ref().take(options.batch.max(1)).collect();
                let images = batch.iter().map(|wanted| wanted.image).collect();
                let noise = self.image_noise(options.seed, images);
                let classes: Vec<_> = batch.iter().map(|wanted| wanted.class).collect();
                let start = begin(&noise);
                eyes.see(Moment {
                    steps_done: 0,
                    latents: &start,
                    clean: None,
                })?;
                let latents = eyes.follow(|watch, observe| {
                    let denoiser = self.watched_denoiser(&networks, &classes, options, watch)?;
                    Ok(walk(&denoiser, start, &noise, observe)?)
                })?;
                let latents = require_finite(latents, "what the sampler ends with")?;
                take(self.decode(latents)?)?;
            }
            Ok(())
        };
        // Those who look on decode in the same precision.
        with_precision(options.precision, draw_all)
    }

    /// [`Self::draw`] along `levels` with the sampler of the options.
    pub(super) fn walk(
        &self,
        order: Order<'_, impl Iterator<Item = Wanted>>,
        levels: &[Level],
        begin: impl Fn(&ImageNoise) -> Tensor<4>,
        eyes: Eyes<'_>,
        take: impl FnMut(Images) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sampler = order.options.sampler;
        let walk = |denoiser: &dyn Denoiser,
                    start: Tensor<4>,
                    noise: &ImageNoise,
                    observe: &mut dyn FnMut(StepTaken<'_>)| {
            let fresh_noise = &mut |step| noise.draw(step);
            sampler.sample(
                denoiser,
                start,
                levels,
                &self.schedule,
                fresh_noise,
                observe,
            )
        };
        self.draw(order, levels, begin, walk, eyes, take)
    }

    /// All images of an order together, from `draw`. Refused if they do not fit into memory.
    pub(super) fn gathered<W>(
        &self,
        order: Order<'_, W>,
        draw: impl FnOnce(
            Order<'_, W>,
            &mut dyn FnMut(Images) -> Result<(), Error>,
        ) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        let shape = self.image_shape();
        let numbers = shape.channels as f64 * shape.height as f64 * shape.width as f64;
        require_memory(&self.device, order.count, order.count as f64 * numbers)?;
        let mut all = Images::empty(0, 0, 0);
        draw(order, &mut |images| {
            all.append(images);
            Ok(())
        })?;
        Ok(all)
    }

    /// Refuses to denoise this many images together if they do not fit into memory.
    pub(super) fn check_batch(&self, images: usize, options: &SampleOptions) -> Result<(), Error> {
        let DiffusionModel { unet, guide, .. } = &self.model;
        let [_, height, width] = self.latent_shape;
        let maps = FeatureMaps::of_unet(unet.config(), [height, width]).drawing;
        // Without a guide, the network gets each image with its class and without it.
        let is_guided =
            guide.is_none() && self.classes.is_some() && options.guidance.scale() != 1.0;
        let maps = if is_guided { 2.0 * maps } else { maps };
        let decoding = self.decoded_at_once(images) as f64 * self.autoencoder_maps();
        let weights = COPIES_OF_WEIGHTS * unet.num_params() as f64;
        require_memory(
            &self.device,
            images,
            decoding.max(images as f64 * maps) + weights,
        )
    }
}
