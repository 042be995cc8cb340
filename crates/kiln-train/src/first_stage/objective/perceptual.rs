//! The distance of images and reconstructions by the features of a frozen network.

use burn::tensor::{Device, Tensor};
use kiln_data::Progress;
use kiln_eval::PerceptualNetwork;

use super::term::Term;
use crate::error::TrainError;
use crate::experiment::PerceptualConfig;
use crate::learner::frozen::Frozen;

/// The perceptual distance (Zhang et al. 2018), as in VQGAN (Esser et al. 2021).
#[derive(Debug)]
pub(super) struct Perceptual {
    network: Frozen<PerceptualNetwork>,
    /// Of the network, in the trained model's metadata.
    pub(super) identity: String,
}

impl Perceptual {
    /// Reads the network, or downloads it, for images with this many channels and sides of at least `side`.
    ///
    /// # Errors
    /// If it cannot be had, or cannot see such images.
    pub(super) fn open(
        config: &PerceptualConfig,
        channels: usize,
        side: usize,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let weights = config.weights.as_deref();
        let network = PerceptualNetwork::open(config.network, weights, device, progress)?;
        network.check(channels, side, side)?;
        Ok(Self {
            identity: network.identity(),
            network: Frozen::new(network),
        })
    }
}

impl Term for Perceptual {
    fn name(&self) -> &'static str {
        "perceptual"
    }

    fn between(&self, images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1> {
        let network = self.network.on(&images.device());
        network.distance(images.clone().without_autodiff(), reconstructions.clone())
    }
}
