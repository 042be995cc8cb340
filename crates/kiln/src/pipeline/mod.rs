//! A whole model: noise in, images out.
//!
//! ```text
//! images.rs      images to latents and back
//! classes.rs     what a conditional model can be asked for
//! sampling.rs    from noise, or from an image, down the trajectory
//! mask.rs        which part of an image is filled in
//! noises.rs      up the trajectory to an image's noise, and from noise to noise
//! ```

mod classes;
mod images;
mod mask;
mod noises;
mod sampling;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_diffusion::{
    Clip, Guidance, LevelOptions, Schedule,
    sampler::{Progress, Sampler},
};
use kiln_hub::{Guide, LatentDiffusion, ModelSource};
use kiln_kernels::Precision;

use crate::{Error, pretrained};

pub use classes::Classes;
pub use noises::Interpolation;

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

/// A moment of the denoising of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Steps done, from 0 (nothing but noise) to the number of steps.
    pub steps_done: usize,
    /// The latents `[batch, channels, h, w]` with the noise that they still have; [`Pipeline::decode`] shows them.
    pub latents: &'a Tensor<4>,
}

/// A walk whose every step `observe` sees, up to an error of its own, which is returned once the walk is over.
fn watched<W>(
    observe: &mut impl FnMut(Moment<'_>) -> Result<(), Error>,
    walk: impl FnOnce(&mut dyn FnMut(Progress<'_>)) -> W,
) -> Result<W, Error> {
    let mut seen = Ok(());
    let walked = walk(&mut |progress| {
        if seen.is_ok() {
            seen = observe(Moment {
                steps_done: progress.step,
                latents: progress.z,
            });
        }
    });
    seen.map(|()| walked)
}

impl Pipeline {
    /// Loads a model in the diffusers layout from a folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder holds no such model or a damaged one, [`Error::ClassEmbedding`] and
    /// [`Error::NoSampleSize`] when it cannot be sampled from.
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_source(&ModelSource::Folder(path.to_owned()), device)
    }

    /// The model that is compiled in.
    ///
    /// # Errors
    /// Those of [`Self::load`], which a built-in model never gives.
    pub fn pretrained(device: &Device) -> Result<Self, Error> {
        Self::from_source(&pretrained::default_model(), device)
    }

    fn from_source(source: &ModelSource, device: &Device) -> Result<Self, Error> {
        Self::from_model(
            source.place(),
            LatentDiffusion::load(source, device)?,
            device,
        )
    }

    /// A pipeline of networks that are on `device` already; `name` says where they came from.
    pub(crate) fn from_model(
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
    /// [`Error::Model`] when the folder holds no model, or one of other latents, classes, schedule or prediction.
    pub fn guided_by(self, worse: &Path) -> Result<Self, Error> {
        let worse = LatentDiffusion::load(&ModelSource::Folder(worse.to_owned()), &self.device)?;
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

    /// Fifty steps, 64 images (8 of each class, if there are classes), and for the rest what the model's scheduler and its
    /// guide say.
    pub fn default_options(&self) -> SampleOptions {
        let classes = self.classes.as_ref().map_or(0, Classes::count);
        SampleOptions {
            steps: 50,
            sampler: self.model.scheduler.sampler,
            levels: self.model.scheduler.levels,
            clip: self.model.scheduler.clip,
            count: if classes > 1 { 8 } else { 64 },
            seed: 0,
            classes: (0..classes).collect(),
            guidance: (self.model.guide.as_ref())
                .map_or_else(Guidance::default, |guide| guide.guidance),
            batch: 64,
            precision: Precision::F32,
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
