//! Refuses images that do not fit into memory, before anything is computed.

use burn::tensor::Device;
use kiln_models::too_little_memory;

use crate::Error;

/// Refuses `images` images that need this many `numbers` at a time, if these do not fit into the free memory. The
/// memory of devices other than processors is unknown.
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
