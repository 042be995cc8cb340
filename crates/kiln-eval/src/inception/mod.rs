//! InceptionV3 (Szegedy et al. 2016) as a feature network, with the same layers as in pytorch-fid.
//!
//! ```text
//! network.rs     the layers and their order
//! layer.rs       a convolution with its batch normalisation folded in, and the pools
//! weights.rs     the weights' file, and the range of pixels that follows from it
//! resize.rs      resizes images to the network's size
//! ```

mod layer;
mod network;
mod resize;
mod weights;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, Tensor, TensorData};

use crate::{EvalError, Features};
use network::{Step, run};
use weights::Weights;

/// The layer of the network whose means over all positions are the features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeatureLayer {
    /// After `Mixed_6c`, Keras' `mixed5`: 768 numbers.
    Mixed6c,
    /// After `Mixed_6e`: pytorch-fid's 768.
    Mixed6e,
    /// After `Mixed_7c`, the last one: pytorch-fid's 2048, the layer of published FIDs and KIDs.
    #[default]
    Mixed7c,
}

impl FeatureLayer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mixed6c, Self::Mixed6e, Self::Mixed7c];

    /// The name on the command line: `6c`, `768` or `2048`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed6c => "6c",
            Self::Mixed6e => "768",
            Self::Mixed7c => "2048",
        }
    }

    fn last_block(self) -> &'static str {
        match self {
            Self::Mixed6c => "Mixed_6c",
            Self::Mixed6e => "Mixed_6e",
            Self::Mixed7c => "Mixed_7c",
        }
    }
}

impl fmt::Display for FeatureLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for FeatureLayer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|layer| layer.name() == text);
        named.ok_or_else(|| "the layers of features are 6c, 768 and 2048".to_owned())
    }
}

/// A trained InceptionV3 up to the layer that features are taken from.
pub struct Inception {
    steps: Vec<Step>,
    layer: FeatureLayer,
    /// Images are resized to squares of this side; `None` leaves them as they are.
    side: Option<usize>,
    /// The factor for a pixel in [0, 1], and the number that is then added.
    pixels: (f32, f32),
    sha256: String,
    device: Device,
}

impl Inception {
    /// Side of the images that pytorch-fid shows the network.
    pub const PYTORCH_FID_SIDE: usize = 299;
    /// The smallest side that the network can read.
    pub const SMALLEST_SIDE: usize = 75;

    /// Reads the network's weights: pytorch-fid's `.pth`, or a safetensors file with the same keys (f32 or f16).
    ///
    /// Images are resized to `side` x `side`; without it they stay as they are. The weights determine whether pixels
    /// are in [-1, 1], as in pytorch-fid, or in [0, 1]: the statistics of the first normalisation show the mean colour
    /// of the training images.
    ///
    /// # Errors
    /// [`EvalError::File`] if it cannot be read, [`EvalError::Weights`] if it does not contain these weights.
    pub fn load(
        path: &Path,
        layer: FeatureLayer,
        side: Option<usize>,
        device: &Device,
    ) -> Result<Self, EvalError> {
        let weights = Weights::read(path)?;
        let pixels = if weights.reads_zero_to_one()? {
            (1.0, 0.0)
        } else {
            (2.0, -1.0)
        };
        Ok(Self {
            steps: network::build(&weights, layer.last_block(), device)?,
            layer,
            side,
            pixels,
            sha256: weights.sha256().to_owned(),
            device: device.clone(),
        })
    }

    /// Whether the weights are pytorch-fid's.
    pub fn is_pytorch_fids(&self) -> bool {
        self.sha256 == kiln_data::PYTORCH_FID_SHA256
    }

    /// Whether distances are comparable with published ones: with pytorch-fid's weights and size.
    pub fn is_published(&self) -> bool {
        self.is_pytorch_fids() && self.side == Some(Self::PYTORCH_FID_SIDE)
    }

    /// The layer of the features.
    pub fn layer(&self) -> FeatureLayer {
        self.layer
    }

    /// The SHA-256 of the weights' file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Identifies everything besides the images that features depend on: the weights, the layer, the size.
    pub fn identity(&self) -> String {
        let side = self
            .side
            .map_or("as-is".to_owned(), |side| side.to_string());
        format!(
            "inception-{}-{}-{side}",
            &self.sha256[..12.min(self.sha256.len())],
            self.layer
        )
    }

    /// The features of images `[batch, channels, height, width]` in [-1, 1], gray or RGB.
    ///
    /// # Errors
    /// [`EvalError::Shape`] for images with other channels, or too small; [`EvalError::Compute`] if the device fails.
    pub fn features(&self, images: Tensor<4>) -> Result<Features, EvalError> {
        let [batch, channels, height, width] = images.dims();
        let smallest = self.side.unwrap_or(height.min(width));
        if !matches!(channels, 1 | 3) || smallest < Self::SMALLEST_SIDE || height * width == 0 {
            return Err(EvalError::Shape {
                what: "InceptionV3",
                channels,
                height,
                width,
                expected: format!(
                    "gray or RGB images, resized to at least {0}x{0}",
                    Self::SMALLEST_SIDE
                ),
            });
        }
        let values: Vec<f32> = images.try_into_data_as::<f32>()?.iter::<f32>().collect();
        let (rows, columns) = self.side.map_or((height, width), |side| (side, side));
        let resized = resize::channels_last(&values, [channels, height, width], [rows, columns]);
        let data = TensorData::new(resized, [batch, rows, columns, 3]);
        let (scale, shift) = self.pixels;
        // From our [-1, 1] to [0, 1], and on to the network's range.
        let images = Tensor::from_data(data, &self.device) * (scale / 2.0) + (scale / 2.0 + shift);
        let maps = run(&self.steps, images);
        let means: Tensor<3> = maps.mean_dim(1).squeeze_dim(1);
        Features::from_tensor(means.mean_dim(1).squeeze_dim(1))
    }
}
