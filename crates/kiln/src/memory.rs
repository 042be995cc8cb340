//! Whether images fit into memory: refused before anything is computed where they do not.

use burn::tensor::Device;
use kiln_models::free_memory;

use crate::Error;

/// Refuses `images` images for which so many `numbers` have to be kept at a time, if they do not fit into what is free. Of
/// other devices than processors nothing is known.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn require_memory(device: &Device, images: usize, numbers: f64) -> Result<(), Error> {
    let needed = numbers * size_of::<f32>() as f64;
    match free_memory() {
        Some(free) if *device == Device::flex() && needed > free as f64 => Err(Error::Memory {
            images,
            needed: needed / 1e9,
            free: free as f64 / 1e9,
        }),
        _ => Ok(()),
    }
}
