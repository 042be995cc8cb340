//! Between images and what is denoised: latents, or the images themselves.

use burn::tensor::Tensor;
use kiln_data::ImageShape;
use kiln_hub::FirstStage;

use super::Pipeline;
use crate::{Error, Images};

impl Pipeline {
    /// The shape of the model's images, without padding.
    pub fn image_shape(&self) -> ImageShape {
        let [channels, height, width] = self.latent_shape;
        let (channels, factor) = match &self.model.first_stage {
            Some(FirstStage { network, .. }) => (network.in_channels(), network.downscale_factor()),
            None => (channels, 1),
        };
        let without_padding = |side: usize| (side * factor).saturating_sub(2 * self.border());
        ImageShape {
            channels,
            height: without_padding(height),
            width: without_padding(width),
        }
    }

    /// Images of [`Self::image_shape`] in [-1, 1] to the latents `[count, channels, h, w]` that are denoised.
    ///
    /// # Errors
    /// [`Error::ImageShape`] for images of another shape.
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
        let pixels = images.clone().padded(self.border()).to_tensor(&self.device);
        Ok(match &self.model.first_stage {
            Some(FirstStage { network, .. }) => network.normalised(network.encode(pixels)),
            // In pixel space the images are the latents.
            None => pixels,
        })
    }

    /// Latents `[batch, channels, h, w]` at any moment of the denoising to images; padding is cropped.
    ///
    /// # Errors
    /// [`Error::Compute`] when the device fails.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Images, Error> {
        let images = match &self.model.first_stage {
            Some(FirstStage { network, .. }) => network.decode(network.denormalised(latents)),
            None => latents,
        };
        Ok(Images::from_tensor(images)?.cropped(self.border()))
    }

    /// Whether the images pass through an autoencoder.
    pub fn has_first_stage(&self) -> bool {
        self.model.first_stage.is_some()
    }

    /// Pixels of padding on each side of what the networks see.
    pub(super) fn border(&self) -> usize {
        match &self.model.first_stage {
            Some(FirstStage { metadata, .. }) => metadata.border,
            None => self.model.metadata.border,
        }
    }
}
