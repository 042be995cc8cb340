//! The model itself: loading, guidance, and its defaults for drawing.

use std::path::Path;

use burn::tensor::Device;
use kiln_checkpoint::{DiffusionModel, Guide, ModelSource};
use kiln_diffusion::{Guidance, Schedule};
use kiln_kernels::Precision;

use super::classes::Classes;
use super::options::SampleOptions;
use crate::Error;

/// A trained diffusion model on a device, ready to sample.
pub struct Pipeline {
    name: String,
    pub(super) model: DiffusionModel,
    pub(super) schedule: Schedule,
    pub(super) classes: Option<Classes>,
    /// The shape of the latents: `[channels, height, width]`.
    pub(super) latent_shape: [usize; 3],
    pub(super) device: Device,
}

impl Pipeline {
    /// Loads a model in the diffusers layout from a folder.
    ///
    /// # Errors
    /// [`Error::Model`] if the folder has no model or a damaged one, and the errors of [`Self::from_model`].
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_source(&ModelSource::Folder(path.to_owned()), device)
    }

    /// Like [`Self::load`], from a folder or from files in memory.
    ///
    /// # Errors
    /// The errors of [`Self::load`].
    pub fn from_source(source: &ModelSource, device: &Device) -> Result<Self, Error> {
        let model = DiffusionModel::load(source, device)?;
        Self::from_model(source.place(), model, device)
    }

    /// A pipeline of networks that are already on `device`; `name` describes their origin.
    ///
    /// # Errors
    /// [`Error::ClassEmbedding`] and [`Error::NoSampleSize`] if the model cannot draw.
    pub fn from_model(name: String, model: DiffusionModel, device: &Device) -> Result<Self, Error> {
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

    /// This model, guided by a worse version of it on the same device: a smaller one, or one that was trained less
    /// (autoguidance, see [`Guidance::guide_by`]). The default scale is [`Guide::USUAL_SCALE`].
    ///
    /// # Errors
    /// [`Error::Model`] for a guide with other latents, classes, schedule or prediction.
    pub fn guided_by(self, worse: DiffusionModel) -> Result<Self, Error> {
        let guidance = Guidance::new(Guide::USUAL_SCALE, [0.0, 1.0])?;
        Ok(Self {
            model: self.model.guided_by(worse, guidance)?,
            ..self
        })
    }

    /// The model's origin, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model itself: its networks, scheduler and facts.
    pub fn model(&self) -> &DiffusionModel {
        &self.model
    }

    /// The device that it computes on.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// The shape of what is denoised: `[channels, height, width]` of the latents.
    pub fn latent_shape(&self) -> [usize; 3] {
        self.latent_shape
    }

    /// The model's classes; `None` if it was trained without labels.
    pub fn classes(&self) -> Option<&Classes> {
        self.classes.as_ref()
    }

    /// The defaults from the model's scheduler, guide and facts. If these have no numbers of steps and images: fifty
    /// steps (fewer if the schedule has fewer) and [`Self::default_count`].
    pub fn default_options(&self) -> SampleOptions {
        let classes = self.classes.as_ref().map_or(0, Classes::count);
        let steps = self.model.metadata.sampling_steps.unwrap_or(50);
        SampleOptions {
            steps: steps.clamp(1, self.schedule.num_train_timesteps()),
            sampler: self.model.scheduler.sampler,
            levels: self.model.scheduler.levels,
            timesteps: None,
            clip: self.model.scheduler.clip,
            count: self.default_count(classes),
            seed: 0,
            classes: (0..classes).collect(),
            guidance: (self.model.guide.as_ref())
                .map_or_else(Guidance::default, |guide| guide.guidance),
            first: 0,
            batch: 64,
            precision: Precision::Auto,
        }
    }

    /// The number of images to draw per class, for this many `classes`: the number in a row of the training's picture of all
    /// classes. If the model does not record it: 64 in all or, in rows of several classes, 8 of each.
    pub fn default_count(&self, classes: usize) -> usize {
        let known = self.classes.as_ref().map_or(0, Classes::count);
        match (self.model.metadata.sampling_count, classes) {
            (Some(all), 0) => all,
            (Some(all), _) => (all / known.max(1)).max(1),
            (None, 0 | 1) => 64,
            (None, _) => 8,
        }
    }
}
