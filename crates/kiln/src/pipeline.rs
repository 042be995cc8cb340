//! A whole model: noise in, images out.

use std::{ops::Range, path::Path};

use burn::tensor::{Device, Tensor};
use kiln_diffusion::{
    Clip, Level, LevelOptions, NetworkDenoiser, Schedule, levels, noise::ImageNoise,
    sampler::Sampler,
};
use kiln_hub::{FirstStage, LatentDiffusion, ModelSource};
use kiln_kernels::{Precision, on_the_pool, with_precision};

use crate::{Error, Images, pretrained};

/// A trained diffusion model on a device, ready to sample.
pub struct Pipeline {
    name: String,
    model: LatentDiffusion,
    schedule: Schedule,
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
    /// Number of images.
    pub count: usize,
    /// Which noise to start from: image i of a seed is always the same.
    pub seed: u64,
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

impl Pipeline {
    /// Loads a model in the diffusers layout from a folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder holds no such model or a damaged one, [`Error::Conditional`] and
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
        if let Some(classes) = config.num_class_embeds {
            return Err(Error::Conditional { classes });
        }
        let [height, width] = config
            .sample_size
            .ok_or(Error::NoSampleSize)?
            .height_and_width();
        Ok(Self {
            name,
            schedule: Schedule::new(model.scheduler.schedule.clone())?,
            latent_shape: [config.in_channels, height, width],
            device: device.clone(),
            model,
        })
    }

    /// Where the model came from, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fifty steps, 64 images, and for the rest what the model's scheduler says.
    pub fn default_options(&self) -> SampleOptions {
        SampleOptions {
            steps: 50,
            sampler: self.model.scheduler.sampler,
            levels: self.model.scheduler.levels,
            clip: self.model.scheduler.clip,
            count: 64,
            seed: 0,
            batch: 64,
            precision: Precision::F32,
        }
    }

    /// Draws images in about [-1, 1]. Each of the `batch` images at a time begins as noise; `observe` sees them then and
    /// after every step.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for a number of steps or an `eta` that the schedule does not allow, whatever `observe`
    /// returns, and [`Error::Compute`] when the device fails.
    pub fn sample(
        &self,
        options: &SampleOptions,
        mut observe: impl FnMut(Moment<'_>) -> Result<(), Error>,
    ) -> Result<Images, Error> {
        let trajectory = self.trajectory(options)?;
        let denoiser = NetworkDenoiser {
            network: |zt: Tensor<4>, level: Level| {
                let timesteps = level.timesteps(&zt);
                in_precision(options.precision, || {
                    self.model.unet.forward(zt, timesteps, None)
                })
            },
            prediction: self.model.scheduler.prediction,
            clip: options.clip,
        };
        let mut drawn = Images::empty(0, 0, 0);
        for images in batches(options.count, options.batch) {
            let noise = ImageNoise {
                seed: options.seed,
                images: images.map(|image| image as u64).collect(),
                shape: self.latent_shape,
                device: self.device.clone(),
            };
            let start = noise.draw(0);
            observe(Moment {
                steps_done: 0,
                latents: &start,
            })?;
            let mut stopped = Ok(());
            let latents = options.sampler.sample(
                &denoiser,
                start,
                &trajectory,
                &self.schedule,
                &mut |step| noise.draw(step),
                &mut |progress| {
                    let moment = Moment {
                        steps_done: progress.step,
                        latents: progress.z,
                    };
                    if stopped.is_ok() {
                        stopped = observe(moment);
                    }
                },
            )?;
            stopped?;
            drawn.append(in_precision(options.precision, || self.decode(latents))?);
        }
        Ok(drawn)
    }

    /// The levels that sampling with `options` walks down: whether they are possible is known before any work.
    ///
    /// # Errors
    /// [`Error::Diffusion`] for a number of steps that the schedule does not allow.
    pub fn trajectory(&self, options: &SampleOptions) -> Result<Vec<Level>, Error> {
        Ok(levels(&self.schedule, options.steps, options.levels)?)
    }

    /// Latents `[batch, channels, h, w]` at any moment of the denoising to images; padding is cropped.
    ///
    /// # Errors
    /// [`Error::Compute`] when the device fails.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Images, Error> {
        let (images, border) = match &self.model.first_stage {
            Some(FirstStage { vqvae, metadata }) => (
                vqvae.decode(latents / vqvae.scaling_factor()),
                metadata.border,
            ),
            // In pixel space the latents are the images.
            None => (latents, self.model.metadata.border),
        };
        Ok(Images::from_tensor(images)?.cropped(border))
    }
}

/// Runs a network: on the pool whose threads share its operators' work, where they need not be woken for each.
fn in_precision<R: Send>(precision: Precision, work: impl FnOnce() -> R + Send) -> R {
    on_the_pool(|| with_precision(precision, work))
}

/// `0..count` in pieces of at most `batch`.
fn batches(count: usize, batch: usize) -> impl Iterator<Item = Range<usize>> {
    let batch = batch.max(1);
    (0..count)
        .step_by(batch)
        .map(move |first| first..(first + batch).min(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_every_image_once() {
        assert_eq!(batches(7, 3).collect::<Vec<_>>(), [0..3, 3..6, 6..7]);
        assert_eq!(batches(2, 64).next(), Some(0..2));
        assert_eq!(batches(0, 0).count(), 0);
    }
}
