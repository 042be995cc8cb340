//! A whole model: noise in, images out.
//!
//! ```text
//! drawing.rs     the one road: numbers and classes -> noise, labels -> denoiser -> sampler -> latents -> images
//! sampling.rs    what goes down that road: from noise, from an image, by a sampler of one's own, into a hole
//! denoiser.rs    the network as a denoiser, guided
//! observed.rs    who sees the steps
//! classes.rs     what a conditional model can be asked for
//! images.rs      images to latents and back
//! mask.rs        which part of an image is filled in
//! negative.rs    whether an image has light and dark the wrong way round
//! noises.rs      up the trajectory to an image's noise, and from noise to noise
//! finite.rs      whether what comes out of the networks is a number
//! ```

mod classes;
mod denoiser;
mod drawing;
mod finite;
mod images;
mod mask;
mod negative;
mod noises;
mod observed;
mod sampling;

use std::path::Path;

use burn::tensor::Device;
use kiln_checkpoint::{Guide, LatentDiffusion, ModelSource};
use kiln_diffusion::sampler::Sampler;
use kiln_diffusion::{Clip, Guidance, LevelOptions, Schedule};
use kiln_kernels::Precision;

use crate::Error;

pub use classes::Classes;
pub use drawing::Wanted;
pub use noises::Interpolation;
pub use observed::{Moment, Observed, Observer};
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

    /// The classes, or no class at all.
    fn conditions(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let classes = match self.classes.as_slice() {
            [] => vec![None],
            classes => classes.iter().copied().map(Some).collect(),
        };
        classes.into_iter()
    }
}

impl Pipeline {
    /// Loads a model in the diffusers layout from a folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder holds none or a damaged one, and those of [`Self::from_model`].
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_source(&ModelSource::Folder(path.to_owned()), device)
    }

    /// As [`Self::load`], from a folder or from files in memory.
    ///
    /// # Errors
    /// Those of [`Self::load`].
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

    /// This model guided by a worse version of it on the same device: a smaller one, or one that was trained less (autoguidance,
    /// see [`Guidance::guide_by`]). By default at [`Guide::USUAL_SCALE`].
    ///
    /// # Errors
    /// [`Error::Model`] for one of other latents, classes, schedule or prediction.
    pub fn guided_by(self, worse: LatentDiffusion) -> Result<Self, Error> {
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
}
