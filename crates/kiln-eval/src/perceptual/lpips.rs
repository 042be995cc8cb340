//! LPIPS, version 0.1 (Zhang et al. 2018).

use std::path::Path;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_kernels::unit_distance;
use safetensors::SafeTensors;

use super::backbone::{Backbone, Layers};
use super::kind::PerceptualKind;
use crate::EvalError;

/// The weights of the channels, by the authors of LPIPS: see `pretrained/lpips-heads.md`.
const HEADS: &[u8] = include_bytes!("../../pretrained/lpips-heads.safetensors");
/// The mean and the deviation of red, green and blue in the backbones' training images, for pixels in [-1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Added to the norms.
const SMALLEST: f32 = 1e-10;

/// LPIPS, version 0.1 (Zhang et al. 2018), equal to the authors' package `lpips`.
///
/// Features of several layers of the [`Backbone`] are divided by their norm at each position. Their squared differences
/// are weighted by channel, as people judge (the heads), averaged over positions, and summed over layers. Gray images
/// are shown in three equal channels.
#[derive(Module, Debug)]
pub struct Lpips {
    layers: Layers,
    /// For each layer, `[channels]`.
    heads: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    sha256: String,
}

impl Lpips {
    /// Reads a backbone's weights: torchvision's file, or a safetensors file with the same keys.
    ///
    /// # Errors
    /// [`EvalError::File`] and [`EvalError::Checkpoint`] if it cannot be read, [`EvalError::Backbone`] if it does not
    /// hold this backbone.
    pub fn load(backbone: Backbone, path: &Path, device: &Device) -> Result<Self, EvalError> {
        let layers = Layers::load(backbone, path, device)?;
        let sha256 = kiln_data::sha256_of_file(path).map_err(|source| EvalError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            layers,
            heads: heads(backbone, device),
            sha256,
        })
    }

    /// The network whose features it compares.
    pub fn backbone(&self) -> Backbone {
        self.layers.backbone()
    }

    /// The SHA-256 of the backbone's file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether the weights are torchvision's, with which figures are published.
    pub fn is_published(&self) -> bool {
        self.backbone().download().is(&self.sha256)
    }

    /// Refuses images that the backbone cannot read: too small, or of other than 1 or 3 channels.
    ///
    /// # Errors
    /// [`EvalError::Shape`].
    pub fn check(&self, channels: usize, height: usize, width: usize) -> Result<(), EvalError> {
        let smallest = self.backbone().smallest_side();
        if matches!(channels, 1 | 3) && height.min(width) >= smallest {
            return Ok(());
        }
        Err(EvalError::Shape {
            what: self.backbone().name(),
            channels,
            height,
            width,
            expected: format!("gray or RGB images of at least {smallest}x{smallest}"),
        })
    }

    /// The distance of each image, `[batch]`: see [`super::PerceptualNetwork::distances`].
    ///
    /// # Panics
    /// If [`Self::check`] refuses the images.
    pub fn distances(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<1> {
        let maps = self.layers.forward(scaled(images)).into_iter();
        let others = self.layers.forward(scaled(others));
        let layers = maps.zip(others).zip(&self.heads);
        let layers =
            layers.map(|((maps, others), head)| unit_distance(maps, others, head.val(), SMALLEST));
        // Every backbone has features to compare.
        layers
            .reduce(|sum, layer| sum + layer)
            .unwrap_or_else(|| unreachable!("no features"))
    }
}

/// `[batch, 1 or 3, height, width]` in [-1, 1] to `[batch, height, width, 3]` as the backbones expect it.
fn scaled(images: Tensor<4>) -> Tensor<4> {
    let device = images.device();
    let row = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 1, 1, 3]), &device)
    };
    // A gray channel is repeated by the subtraction.
    (images.permute([0, 2, 3, 1]) - row(SHIFT)) / row(SCALE)
}

/// The heads of a backbone's layers.
fn heads(backbone: Backbone, device: &Device) -> Vec<Param<Tensor<1>>> {
    let name = PerceptualKind::from(backbone);
    let file = SafeTensors::deserialize(HEADS);
    let layers = backbone.channels().into_iter().enumerate();
    let head = layers.map(|(layer, channels)| {
        let tensor = file
            .as_ref()
            .ok()
            .and_then(|file| file.tensor(&format!("{name}.{layer}")).ok());
        let numbers = tensor.map(|tensor| tensor.data().as_chunks().0.to_vec());
        let values: Vec<f32> = numbers
            .into_iter()
            .flatten()
            .map(f32::from_le_bytes)
            .collect();
        assert_eq!(values.len(), channels, "compiled-in head {layer} of {name}");
        let tensor = Tensor::from_data(TensorData::new(values, [channels]), device);
        Param::initialized(ParamId::new(), tensor).set_require_grad(false)
    });
    head.collect()
}
