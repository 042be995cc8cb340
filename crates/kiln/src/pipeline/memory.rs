//! How many images there is room for: known before any memory is taken, since a config of a few bytes can ask for all of it.

use burn::tensor::Device;
use kiln_models::{forward_memory, memory_at_hand};

use super::Pipeline;
use crate::Error;

impl Pipeline {
    /// Refuses to work on more images at a time than the memory of this machine holds. A GPU knows itself what it holds.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(super) fn check_memory(&self, images: usize) -> Result<(), Error> {
        let [_, height, width] = self.latent_shape;
        let of_one = forward_memory(self.model.unet.config(), [height, width]);
        let needed = of_one.saturating_mul(images as u64);
        match memory_at_hand() {
            Some(at_hand) if needed > at_hand && self.device == Device::flex() => {
                Err(Error::Memory {
                    images,
                    needed,
                    at_hand,
                })
            }
            _ => Ok(()),
        }
    }
}
