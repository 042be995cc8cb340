//! Whether images fit into memory: refused before anything is computed where they do not.

use burn::tensor::Device;
use kiln_models::too_little_memory;

use crate::Error;

/// Refuses `images` images for which so many `numbers` have to be kept at a time, if they do not fit into what is free. Of
/// other devices than processors nothing is known.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn require_memory(device: &Device, images: usize, numbers: f64) -> Result<(), Error> {
    if *device != Device::flex() {
        return Ok(());
    }
    let needed = numbers * size_of::<f32>() as f64;
    match too_little_memory(needed) {
        Some(free) => Err(Error::Memory {
            images,
            needed: needed / 1e9,
            free: free / 1e9,
        }),
        None => Ok(()),
    }
}
