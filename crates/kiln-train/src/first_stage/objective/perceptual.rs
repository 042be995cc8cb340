//! The distance of images and reconstructions by the features of a frozen network.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use kiln_data::Progress;
use kiln_eval::{EvalError, PerceptualKind, PerceptualNetwork};

use super::term::Term;
use crate::error::TrainError;
use crate::experiment::{FirstStageConfig, PerceptualConfig};
use crate::learner::frozen::Frozen;
use crate::learner::report::{MetricKind, Reading};

/// What is logged of it.
pub(crate) const PERCEPTUAL: MetricKind = MetricKind::new("perceptual", Reading::Mean);

/// The perceptual distance (Zhang et al. 2018), as in VQGAN (Esser et al. 2021).
#[derive(Debug)]
pub(super) struct Perceptual {
    network: Frozen<PerceptualNetwork>,
    /// Of the network, in the trained model's metadata.
    pub(super) identity: String,
}

/// Reads the frozen network of a first stage for images of `side` pixels from its config's file, from `weights` instead of
/// it, or downloads it.
///
/// # Errors
/// If it cannot be had, or cannot see such images.
pub(crate) fn open(
    first_stage: &FirstStageConfig,
    config: &PerceptualConfig,
    weights: Option<&Path>,
    side: usize,
    device: &Device,
    progress: &dyn Progress,
) -> Result<PerceptualNetwork, TrainError> {
    if let Some(lost) = weights.filter(|weights| !weights.exists()) {
        let remedy = match config.network {
            PerceptualKind::Classifier => {
                "`kiln train-classifier` trains such a network, and kiln's repository has one in pretrained/cifar10-classifier"
            }
            _ => "leave the key out, and kiln downloads torchvision's file",
        };
        return Err(TrainError::Run(format!(
            "there is no {} (stage_1.perceptual.weights; a relative path begins in the working folder): {remedy}",
            lost.display()
        )));
    }
    let network = PerceptualNetwork::open(config.network, weights, device, progress);
    let network = network.map_err(|problem| match problem {
        // Reading an experiment does not refuse this: those on the Hub name no file of their author's machine.
        EvalError::NoWeights => TrainError::Run(
            "`stage_1.perceptual.network = \"classifier\"` needs `stage_1.perceptual.weights`, the model.safetensors of `kiln train-classifier`: name it, or choose lpips-vgg16, lpips-alexnet or lpips-squeezenet".to_owned(),
        ),
        other => other.into(),
    })?;
    let channels = first_stage.network.in_channels();
    network.check(channels, side, side)?;
    let smallest = first_stage.smallest_side(side);
    network.check(channels, smallest, smallest).map_err(|problem| {
        TrainError::Run(format!(
            "stage_1.equivariance.smallest_scale brings images down to {smallest}x{smallest}: {problem}"
        ))
    })?;
    Ok(network)
}

impl Perceptual {
    pub(super) fn new(network: PerceptualNetwork) -> Self {
        Self {
            identity: network.identity(),
            network: Frozen::new(network),
        }
    }
}

impl Term for Perceptual {
    fn name(&self) -> &'static str {
        PERCEPTUAL.name
    }

    fn between(&self, images: &Tensor<4>, reconstructions: &Tensor<4>) -> Tensor<1> {
        let network = self.network.on(&images.device());
        network.distance(images.clone().without_autodiff(), reconstructions.clone())
    }
}
