//! The network by which reconstructions are compared with their originals.

use std::path::PathBuf;

use anyhow::anyhow;
use burn::tensor::Device;
use clap::Args;
use kiln_eval::{EvalError, PerceptualKind, PerceptualNetwork};

use super::drawing::MEASURES;
use crate::terminal::DataProgress;

/// The networks that are used without being asked for if their weights are in the cache: the one that measures best
/// comes first (Zhang et al. 2018).
const UNASKED: [PerceptualKind; 3] = [
    PerceptualKind::LpipsAlexnet,
    PerceptualKind::LpipsVgg16,
    PerceptualKind::LpipsSqueezenet,
];

/// `--perceptual` and its weights.
#[derive(Args)]
pub struct PerceptualArguments {
    /// With --first-stage: measure how alike originals and reconstructions look, by lpips-alexnet, lpips-vgg16,
    /// lpips-squeezenet (weights of torchvision: 244, 553 and 5 MB, downloaded once) or classifier [default: for colour
    /// images the first of these whose weights are in the cache, if any]
    #[arg(long, help_heading = MEASURES, value_name = "NETWORK", requires = "first_stage")]
    perceptual: Option<PerceptualKind>,

    /// Weights of --perceptual: torchvision's file, or for classifier the model.safetensors of `kiln train-classifier`
    #[arg(long, help_heading = MEASURES, value_name = "FILE", requires = "perceptual")]
    perceptual_weights: Option<PathBuf>,
}

impl PerceptualArguments {
    /// The network for images of this shape, if there is one.
    pub fn open(
        &self,
        [channels, height, width]: [usize; 3],
        device: &Device,
    ) -> anyhow::Result<Option<PerceptualNetwork>> {
        if let Some(kind) = self.perceptual {
            let weights = self.perceptual_weights.as_deref();
            let network = PerceptualNetwork::open(kind, weights, device, &DataProgress::default());
            let network = network.map_err(|problem| match problem {
                EvalError::NoWeights => anyhow!(
                    "--perceptual classifier needs --perceptual-weights FILE, the model.safetensors of `kiln train-classifier`"
                ),
                other => other.into(),
            })?;
            network.check(channels, height, width)?;
            return Ok(Some(network));
        }
        if channels != 3 {
            return Ok(None);
        }
        for kind in UNASKED {
            let cached = PerceptualNetwork::open_cached(kind, device)?;
            let fits = |network: &PerceptualNetwork| network.check(channels, height, width).is_ok();
            if let Some(network) = cached.filter(fits) {
                return Ok(Some(network));
            }
        }
        Ok(None)
    }
}
