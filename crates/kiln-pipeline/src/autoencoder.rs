//! The first stage alone: images to latents and back.

use std::path::Path;

use burn::tensor::Device;
use kiln_checkpoint::{FirstStage, ModelSource, PERCEPTUAL_NETWORK};
use kiln_models::FeatureMaps;
use kiln_models::bottleneck::vq::{codes_in_use, perplexity};

use crate::pictures::Images;
use crate::{Error, memory::require_memory};

/// A trained first stage on a device: a VQ-VAE, or an autoencoder without a codebook.
pub struct Autoencoder {
    name: String,
    model: FirstStage,
    device: Device,
}

/// Images after the round trip through an autoencoder, and the codes that they went through.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// The reconstructions, in the order and shape of the originals.
    pub images: Images,
    /// How often each code of the codebook was chosen; empty if there is no codebook.
    pub code_counts: Vec<f32>,
}

impl Reconstruction {
    /// How many codes were chosen at least once.
    pub fn codes_in_use(&self) -> usize {
        codes_in_use(&self.code_counts)
    }

    /// The exponential of the entropy of the codes' use: the number of equally frequent codes with the same
    /// information.
    pub fn perplexity(&self) -> f64 {
        perplexity(&self.code_counts)
    }
}

impl Autoencoder {
    /// Loads the autoencoder in a folder: its own, or the `vqvae/` of a whole model.
    ///
    /// # Errors
    /// [`Error::Model`] if the folder has no autoencoder or a damaged one.
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        Self::from_source(&ModelSource::Folder(path.to_owned()), device)
    }

    /// Like [`Self::load`], from a folder or from files in memory.
    ///
    /// # Errors
    /// The errors of [`Self::load`].
    pub fn from_source(source: &ModelSource, device: &Device) -> Result<Self, Error> {
        let model = FirstStage::load(source, device)?;
        Ok(Self::from_model(source.place(), model, device))
    }

    /// An autoencoder that is already on `device`; `name` describes its origin.
    pub fn from_model(name: String, model: FirstStage, device: &Device) -> Self {
        Self {
            name,
            model,
            device: device.clone(),
        }
    }

    /// The model's origin, in words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity of the network whose features the training kept, if the model says so: by it the reconstructions look better
    /// than by others.
    pub fn seen_by(&self) -> Option<&str> {
        let facts = &self.model.metadata.training;
        facts.get(PERCEPTUAL_NETWORK).map(String::as_str)
    }

    /// The side of the model's training images, with their padding.
    pub fn image_size(&self) -> usize {
        self.model.network.config().sample_size()
    }

    /// Channels of its images: 1 (gray) or 3 (RGB).
    pub fn channels(&self) -> usize {
        self.model.network.config().in_channels()
    }

    /// Whether images `[channels, height, width]` can go through the model.
    ///
    /// # Errors
    /// [`Error::ImageChannels`] or [`Error::ImageSize`] with the model's requirements.
    pub fn check_image(&self, channels: usize, height: usize, width: usize) -> Result<(), Error> {
        let config = self.model.network.config();
        let (expected, factor) = (config.in_channels(), config.downscale_factor());
        if channels != expected {
            return Err(Error::ImageChannels { channels, expected });
        }
        let fits = |side: usize| side > 0 && side.is_multiple_of(factor);
        if !fits(height) || !fits(width) {
            return Err(Error::ImageSize {
                height,
                width,
                factor,
            });
        }
        Ok(())
    }

    /// Sends images in [-1, 1] through the model, `batch` at a time. `observe` gets the number of finished images.
    ///
    /// # Errors
    /// The errors of [`Self::check_image`], [`Error::Memory`] for a batch that is too large, [`Error::NotFinite`] for a
    /// broken model, and [`Error::Compute`] if the device fails.
    pub fn reconstruct(
        &self,
        originals: &Images,
        batch: usize,
        mut observe: impl FnMut(usize),
    ) -> Result<Reconstruction, Error> {
        let (channels, height, width) =
            (originals.channels(), originals.height(), originals.width());
        self.check_image(channels, height, width)?;
        let network = &self.model.network;
        let together = batch.min(originals.len());
        let maps = FeatureMaps::of_autoencoder(network.config(), [height, width]).drawing;
        require_memory(&self.device, together, together as f64 * maps)?;
        let codes = network.bottleneck.codes();
        let mut images = Images::empty(channels, height, width);
        let mut code_counts = vec![0.0; codes.unwrap_or(0)];
        for pixels in originals.batches(batch) {
            let (reconstructions, passed) = network.forward(pixels.to_tensor(&self.device), None);
            if let Some(codes) = passed.codes {
                for code in codes.try_into_data_as::<i64>()?.iter::<i64>() {
                    if let Some(count) = code_counts.get_mut(code as usize) {
                        *count += 1.0;
                    }
                }
            }
            images.extend_from_tensor(reconstructions)?;
            observe(images.len());
        }
        if !images.are_finite() {
            return Err(Error::NotFinite("what the decoder answers"));
        }
        Ok(Reconstruction {
            images,
            code_counts,
        })
    }
}
