//! Whether a training fits into memory: refused before anything is allocated where it cannot.

use burn::tensor::Device;
use kiln_models::{FeatureMaps, too_little_memory};

use crate::devices::Devices;
use crate::experiment::{ConfigError, Experiment, TrainingConfig};

/// Bytes of a number.
const NUMBER: f64 = 4.0;
/// Of each weight there are its gradient and the optimizer's two moments, too.
const COPIES_OF_WEIGHTS: f64 = 4.0;

/// Refuses a batch whose feature maps do not fit into what is free. `table` is that of `training` in the config.
///
/// # Errors
/// [`ConfigError::Memory`] with the key. Of other devices than processors nothing is known.
pub(crate) fn check_batch(
    table: &str,
    training: &TrainingConfig,
    devices: &Devices,
    maps: FeatureMaps,
) -> Result<(), ConfigError> {
    if !is_processor(devices) {
        return Ok(());
    }
    let images = training.batch_size * devices.all().len();
    let needed = images as f64 * maps.training;
    require(&format!("{table}.batch_size"), training.batch_size, needed)
}

/// The same of the images that are drawn together for a picture.
///
/// # Errors
/// Those of [`check_batch`].
pub(crate) fn check_pictures(
    experiment: &Experiment,
    devices: &Devices,
) -> Result<(), ConfigError> {
    let draws = experiment.stage_2.training.pictures_every.is_positive();
    if !draws || !is_processor(devices) {
        return Ok(());
    }
    let [_, height, width] = experiment.sample_shape();
    let unet = FeatureMaps::of_unet(&experiment.unet, [height, width]);
    let size = [experiment.data.size; 2];
    let decoder = experiment.vqvae.as_ref();
    let decoder = decoder.map(|vqvae| FeatureMaps::of_vqvae(vqvae, size).drawing);
    let count = experiment.sampling.count;
    let needed = count as f64 * unet.drawing.max(decoder.unwrap_or_default());
    require("sampling.count", count, needed)
}

/// Refuses to train so many weights where they, their gradients and the optimizer's moments do not fit into what is free.
///
/// # Errors
/// Those of [`check_batch`].
pub(crate) fn check_weights(key: &str, count: usize, devices: &Devices) -> Result<(), ConfigError> {
    match is_processor(devices) {
        true => require(
            key,
            format!("{count} weights"),
            count as f64 * COPIES_OF_WEIGHTS,
        ),
        false => Ok(()),
    }
}

fn is_processor(devices: &Devices) -> bool {
    devices.first() == Device::flex()
}

fn require(key: &str, value: impl ToString, numbers: f64) -> Result<(), ConfigError> {
    let needed = numbers * NUMBER;
    match too_little_memory(needed) {
        Some(free) => Err(ConfigError::Memory {
            key: key.to_owned(),
            value: value.to_string(),
            needed: needed / 1e9,
            free: free / 1e9,
        }),
        None => Ok(()),
    }
}
