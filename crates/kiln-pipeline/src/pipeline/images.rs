//! Converts between images and the space of denoising: latents, or the images themselves.

use burn::tensor::Tensor;
use kiln_checkpoint::FirstStage;
use kiln_data::ImageShape;
use kiln_kernels::is_cpu;
use kiln_models::FeatureMaps;

use super::finite::require_finite;
use super::model::Pipeline;
use crate::pictures::Images;
use crate::{Error, memory::require_memory};

/// Images that a processor decodes together: enough for many cores.
const DECODED_AT_ONCE: usize = 16;

impl Pipeline {
    /// The shape of the model's images, without padding.
    pub fn image_shape(&self) -> ImageShape {
        let [channels, height, width] = self.latent_shape;
        let (channels, factor) = match &self.model.first_stage {
            Some(FirstStage { network, .. }) => (
                network.config().in_channels(),
                network.config().downscale_factor(),
            ),
            None => (channels, 1),
        };
        let without_padding = |side: usize| (side * factor).saturating_sub(2 * self.border());
        ImageShape {
            channels,
            height: without_padding(height),
            width: without_padding(width),
        }
    }

    /// Images of [`Self::image_shape`] in [-1, 1] to latents `[count, channels, h, w]` for denoising.
    ///
    /// # Errors
    /// [`Error::ImageShape`] for images of another shape, [`Error::Memory`] for too many, [`Error::NotFinite`] for a broken
    /// encoder.
    pub fn encode(&self, images: &Images) -> Result<Tensor<4>, Error> {
        let expected = self.image_shape();
        let given = ImageShape {
            channels: images.channels(),
            height: images.height(),
            width: images.width(),
        };
        if given != expected {
            return Err(Error::ImageShape { given, expected });
        }
        self.check_autoencoder_memory(images.len())?;
        let pixels = images.clone().padded(self.border()).to_tensor(&self.device);
        match &self.model.first_stage {
            Some(FirstStage { network, .. }) => {
                let latents = network.normalised(network.encode(pixels));
                require_finite(latents, "what the encoder answers")
            }
            // In pixel space the images are the latents.
            None => Ok(pixels),
        }
    }

    /// Latents `[batch, channels, h, w]` at any moment of the denoising to images. Padding is cropped.
    ///
    /// # Errors
    /// [`Error::Memory`] for too many, [`Error::NotFinite`] for a broken decoder, and [`Error::Compute`] if the device
    /// fails.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Images, Error> {
        let [count, ..] = latents.dims();
        let at_once = self.decoded_at_once(count);
        self.check_autoencoder_memory(at_once)?;
        let (images, what) = match &self.model.first_stage {
            Some(FirstStage { network, .. }) => {
                let parts = latents.split(at_once.max(1), 0).into_iter();
                let parts = parts.map(|part| network.decode(network.denormalised(part)));
                (Tensor::cat(parts.collect(), 0), "what the decoder answers")
            }
            None => (latents, "the image"),
        };
        let images = Images::from_tensor(images)?;
        if !images.are_finite() {
            return Err(Error::NotFinite(what));
        }
        Ok(images.cropped(self.border()))
    }

    /// Whether the images pass through an autoencoder.
    pub fn has_first_stage(&self) -> bool {
        self.model.first_stage.is_some()
    }

    /// The count of numbers that the autoencoder keeps at a time for each image; zero if there is no autoencoder.
    pub(super) fn autoencoder_maps(&self) -> f64 {
        let [_, height, width] = self.latent_shape;
        (self.model.first_stage.as_ref()).map_or(0.0, |FirstStage { network, .. }| {
            let size = [height, width].map(|side| side * network.config().downscale_factor());
            FeatureMaps::of_autoencoder(network.config(), size).drawing
        })
    }

    /// Of so many images, those that are decoded together. On a processor more than a few only need more memory.
    pub(super) fn decoded_at_once(&self, count: usize) -> usize {
        match is_cpu(&self.device) {
            true => count.min(DECODED_AT_ONCE),
            false => count,
        }
    }

    fn check_autoencoder_memory(&self, images: usize) -> Result<(), Error> {
        require_memory(
            &self.device,
            images,
            images as f64 * self.autoencoder_maps(),
        )
    }

    /// Pixels of padding on each side of the networks' images.
    pub(super) fn border(&self) -> usize {
        match &self.model.first_stage {
            Some(FirstStage { metadata, .. }) => metadata.border,
            None => self.model.metadata.border,
        }
    }
}
