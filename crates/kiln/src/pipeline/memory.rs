//! How many images there is room for: known before any memory is taken, since a config of a few bytes can ask for all of it.

use burn::tensor::Device;
use kiln_models::{forward_memory, image_memory, memory_at_hand};

use super::Pipeline;
use crate::Error;

impl Pipeline {
    /// Refuses to work on more images at a time than the memory of this machine holds.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(super) fn check_memory(&self, images: usize) -> Result<(), Error> {
        let [_, height, width] = self.latent_shape;
        let latents = [height, width];
        let denoised = forward_memory(self.model.unet.config(), latents);
        let first_stage = self.model.first_stage.as_ref();
        let decoded = first_stage.map_or(0, |stage| image_memory(&stage.network, latents));
        check_memory(images, denoised.max(decoded), &self.device)
    }
}

/// Refuses to work on so many images at a time, each of which needs so many bytes, if that is more than there are. A GPU knows
/// itself what it holds.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn check_memory(images: usize, of_one: u64, device: &Device) -> Result<(), Error> {
    let needed = of_one.saturating_mul(images as u64);
    match memory_at_hand() {
        Some(at_hand) if needed > at_hand && *device == Device::flex() => Err(Error::Memory {
            images,
            needed,
            at_hand,
        }),
        _ => Ok(()),
    }
}
