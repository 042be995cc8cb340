//! A whole model: noise in, images out.
//!
//! ```text
//! images.rs      images to latents and back
//! classes.rs     what a conditional model can be asked for
//! sampling.rs    from noise, or from an image, down the trajectory
//! mask.rs        which part of an image is filled in
//! negative.rs    whether an image has light and dark the wrong way round
//! noises.rs      up the trajectory to an image's noise, and from noise to noise
//! finite.rs      whether what comes out of the networks is a number
//! ```

mod classes;
mod finite;
mod images;
mod mask;
mod negative;
mod noises;
mod sampling;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_checkpoint::{Guide, LatentDiffusion, ModelSource};
use kiln_diffusion::{
    Clip, Guidance, LevelOptions, Schedule,
    sampler::{Progress, Sampler},
};
use kiln_kernels::Precision;
use kiln_train::load_model;

use crate::Error;
use finite::Watch;

pub use classes::Classes;
pub use noises::Interpolation;
pub use sampling::Start;

/// A trained diffusion model on a device, ready to sample.
pub struct Pipeline {
    name: String,
    model: LatentDiffusion,
    schedule: Schedule,
    classes: Option<Classes>,
    /// What is denoised: `[channels, height, width]`.
    latent_shape: [usize; 3],
    device: Device,
}

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Denoising steps, from 1 to the schedule's number of timesteps.
    pub steps: usize,
    /// How to walk from noise to image.
    pub sampler: Sampler,
    /// Which timesteps are visited, and where the walk ends.
    pub levels: LevelOptions,
    /// How predicted clean latents are kept in their range.
    pub clip: Option<Clip>,
    /// Number of images, of each class if there are classes.
    pub count: usize,
    /// Which noise to start from: image i of a seed is always the same for the same class.
    pub seed: u64,
    /// The classes to draw, for a conditional model. None at all draws from the null class, of images in general.
    pub classes: Vec<usize>,
    /// How far to go beyond what the model's guide says, or, of a model without one, what the null class does.
    pub guidance: Guidance,
    /// Images that are denoised together: memory and speed, not the images, depend on it.
    pub batch: usize,
    /// Which numbers the convolutions multiply; `bf16` is for the CPU.
    pub precision: Precision,
}

impl SampleOptions {
    /// Images in all: `count` of each class, or `count` where there are no classes.
    pub fn images(&self) -> usize {
        self.count.saturating_mul(self.classes.len().max(1))
    }
}

/// A moment of the denoising of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Steps done, from 0 (nothing but noise) to the number of steps.
    pub steps_done: usize,
    /// The latents `[batch, channels, h, w]` with the noise that they still have; [`Pipeline::decode`] shows them.
    pub latents: &'a Tensor<4>,
    /// What the network took for the clean latents at the beginning of the step that led here, of the same shape; none
    /// before the first step.
    pub clean: Option<&'a Tensor<4>>,
}

/// A walk whose every step `observe` sees, up to an error of its own, which is returned once the walk is over. `watch` is on
/// the network that is asked on the way: what it finds comes first.
fn watched<W>(
    watch: Watch,
    observe: &mut impl FnMut(Moment<'_>) -> Result<(), Error>,
    walk: impl FnOnce(&Watch, &mut dyn FnMut(Progress<'_>)) -> Result<W, Error>,
) -> Result<W, Error> {
    let mut seen = Ok(());
    let walked = walk(&watch, &mut |progress| {
        watch.set_steps_done(progress.step);
        if seen.is_ok() && !watch.has_failed() {
            seen = observe(Moment {
                steps_done: progress.step,
                latents: progress.z,
                clean: Some(progress.z0),
            });
        }
    })?;
    watch.finish()?;
    seen.map(|()| walked)
}

impl Pipeline {
    /// Loads a model in the diffusers layout from a folder, or a checkpoint of a run's diffusion training
    /// (`RUN/diffusion/checkpoints/step-N`).
    ///
    /// # Errors
    /// [`Error::Training`] when the folder holds neither or a damaged one, [`Error::ClassEmbedding`] and
    /// [`Error::NoSampleSize`] when it cannot be sampled from.
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        let name = path.display().to_string();
        Self::from_model(name, load_model(path, device)?, device)
    }

    /// Loads a model in the diffusers layout from a folder or from files in memory.
    ///
    /// # Errors
    /// [`Error::Model`] when the model is incomplete or damaged, and those of [`Self::from_model`].
    pub fn from_source(source: &ModelSource, device: &Device) -> Result<Self, Error> {
        let model = LatentDiffusion::load(source, device)?;
        Self::from_model(source.place(), model, device)
    }

    /// A pipeline of networks that are on `device` already; `name` says where they came from.
    ///
    /// # Errors
    /// [`Error::ClassEmbedding`] and [`Error::NoSampleSize`] when the model cannot be sampled from.
    pub fn from_model(
        name: String,
        model: LatentDiffusion,
        device: &Device,
    ) -> Result<Self, Error> {
        let config = model.unet.config();
        let [height, width] = config
            .sample_size
            .ok_or(Error::NoSampleSize)?
            .height_and_width();
        Ok(Self {
            name,
            schedule: Schedule::new(model.scheduler.schedule.clone())?,
            classes: Classes::of(config, &model.metadata)?,
            latent_shape: [config.in_channels, height, width],
            device: device.clone(),
            model,
        })
    }

    /// This model guided by a worse version of it, in a folder: a smaller one, or one that was trained less (autoguidance,
    /// see [`Guidance::guide_by`]). By default at [`Guide::USUAL_SCALE`].
    ///
    /// # Errors
    /// [`Error::Training`] when the folder holds no model, [`Error::Model`] for one of other latents, classes, schedule or prediction.
    pub fn guided_by(self, worse: &Path) -> Result<Self, Error> {
        let worse = load_model(worse, &self.device)?;
        let guidance = Guidance::new(Guide::USUAL_SCALE, [0.0, 1.0])?;
        Ok(Self {
            model: self.model.guided_by(worse, guidance)?,
            ..self
        })
    }

    /// Where the model came from, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The classes that the model can be asked for; none if it was trained without labels.
    pub fn classes(&self) -> Option<&Classes> {
        self.classes.as_ref()
    }

    /// What the model says by its scheduler, its guide and its facts: where these know no numbers of steps and images, fifty
    /// steps (fewer if the schedule has not as many) and [`Self::default_count`].
    pub fn default_options(&self) -> SampleOptions {
        let classes = self.classes.as_ref().map_or(0, Classes::count);
        let steps = self.model.metadata.sampling_steps.unwrap_or(50);
        SampleOptions {
            steps: steps.clamp(1, self.schedule.num_train_timesteps()),
            sampler: self.model.scheduler.sampler,
            levels: self.model.scheduler.levels,
            clip: self.model.scheduler.clip,
            count: self.default_count(classes),
            seed: 0,
            classes: (0..classes).collect(),
            guidance: (self.model.guide.as_ref())
                .map_or_else(Guidance::default, |guide| guide.guidance),
            batch: 64,
            precision: Precision::F32,
        }
    }

    /// How many images of each of so many `classes` fill a picture, as the model was trained to show them: 64 in all or, in
    /// rows of several classes, 8 of each, if it does not say.
    pub fn default_count(&self, classes: usize) -> usize {
        match (self.model.metadata.sampling_count, classes) {
            (Some(all), _) => (all / classes.max(1)).max(1),
            (None, 0 | 1) => 64,
            (None, _) => 8,
        }
    }

    /// Whether the model can draw the classes that `options` ask for, guided as they say.
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::NoSuchClass`], [`Error::ClassNeeded`], [`Error::NoGuide`] or [`Error::NoNullClass`]
    /// where it cannot.
    pub fn check_classes(&self, options: &SampleOptions) -> Result<(), Error> {
        let needs_null_class = options.guidance.scale() != 1.0 && self.model.guide.is_none();
        let Some(classes) = &self.classes else {
            return match options.classes.as_slice() {
                [_, ..] => Err(Error::NoClasses),
                [] if needs_null_class => Err(Error::NoGuide),
                [] => Ok(()),
            };
        };
        if needs_null_class && !classes.has_null_class() {
            return Err(Error::NoNullClass);
        }
        if options.classes.is_empty() {
            classes.label(None)?;
        }
        for &class in &options.classes {
            classes.label(Some(class))?;
        }
        Ok(())
    }
}
