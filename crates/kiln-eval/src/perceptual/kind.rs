//! The choice of a perceptual network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Backbone;

/// The network whose features are compared.
///
/// On two cores that other programs used as well, a distance and its gradient for 32 images of 64x64 took 1.4 s with
/// VGG16, 0.1 s with AlexNet and with SqueezeNet, and 0.2 s with the classifier of `configs/cifar10-classifier.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PerceptualKind {
    /// LPIPS by VGG16: slow, and the usual choice to train with.
    #[serde(rename = "lpips-vgg16")]
    LpipsVgg16,
    /// LPIPS by AlexNet: fast, and the usual choice to measure with.
    #[serde(rename = "lpips-alexnet")]
    LpipsAlexnet,
    /// LPIPS by SqueezeNet 1.1: fast, and its weights have only 5 MB.
    #[serde(rename = "lpips-squeezenet")]
    LpipsSqueezenet,
    /// A classifier from `kiln train-classifier`.
    #[serde(rename = "classifier")]
    Classifier,
}

impl From<Backbone> for PerceptualKind {
    fn from(backbone: Backbone) -> Self {
        match backbone {
            Backbone::Vgg16 => Self::LpipsVgg16,
            Backbone::AlexNet => Self::LpipsAlexnet,
            Backbone::SqueezeNet => Self::LpipsSqueezenet,
        }
    }
}

impl PerceptualKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::LpipsVgg16,
        Self::LpipsAlexnet,
        Self::LpipsSqueezenet,
        Self::Classifier,
    ];

    /// The name in a config and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LpipsVgg16 => "lpips-vgg16",
            Self::LpipsAlexnet => "lpips-alexnet",
            Self::LpipsSqueezenet => "lpips-squeezenet",
            Self::Classifier => "classifier",
        }
    }

    /// The numbers that training keeps for each pixel of an image. Measured for the classifier of
    /// `configs/cifar10-classifier.toml` (1.6 GB for 24 images of 256x256); for the others, the inputs of all convolutions
    /// and activations on images and reconstructions, counted.
    pub fn numbers_per_pixel(self) -> f64 {
        match self {
            Self::LpipsVgg16 => 1100.0,
            Self::LpipsAlexnet => 60.0,
            Self::LpipsSqueezenet => 200.0,
            Self::Classifier => 260.0,
        }
    }

    pub(super) fn backbone(self) -> Option<Backbone> {
        match self {
            Self::LpipsVgg16 => Some(Backbone::Vgg16),
            Self::LpipsAlexnet => Some(Backbone::AlexNet),
            Self::LpipsSqueezenet => Some(Backbone::SqueezeNet),
            Self::Classifier => None,
        }
    }
}

impl fmt::Display for PerceptualKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for PerceptualKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| {
            format!(
                "perceptual networks are {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_configs_and_on_the_command_line() {
        for kind in PerceptualKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let sentence = "lpips-vgg".parse::<PerceptualKind>().unwrap_err();
        assert!(sentence.contains("lpips-vgg16"), "{sentence}");
    }
}
