//! Clipping: keeping an estimated image in the range of the data.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::DiffusionError;

/// How to keep estimated images in the data's range. Only for pixels: latents have no range.
///
/// In a config file a number, or a table: `clip = 1.0` or `clip = { quantile = 0.995, maximum = 1.5 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Clip {
    /// To [-range, range]; 1 for pixels.
    Range(f64),
    /// Dynamic thresholding (Imagen, Saharia et al. 2022, section 2.3): with s the `quantile` of an
    /// image's absolute values, clips to [-s, s] and divides by s, where s exceeds 1. Strong guidance
    /// drives pixels against their limits; this brings them back instead of saturating them.
    Dynamic {
        /// From 0 to 1; 0.995 in the paper.
        quantile: f64,
        /// s is at most this, at least 1; with 1 this is plain clipping to [-1, 1].
        maximum: f64,
    },
}

impl Clip {
    /// Dynamic thresholding as in the paper: at the 99.5th percentile, with no limit.
    pub const DYNAMIC: Self = Clip::Dynamic {
        quantile: 0.995,
        maximum: f64::MAX,
    };

    /// Refuses a range or threshold that images cannot be clipped to.
    ///
    /// # Errors
    /// A range or a maximum that is not finite and positive (at least 1 for the maximum), and a
    /// quantile outside [0, 1].
    pub fn validate(self) -> Result<(), DiffusionError> {
        let valid = match self {
            Clip::Range(range) => range.is_finite() && range > 0.0,
            Clip::Dynamic { quantile, maximum } => {
                (0.0..=1.0).contains(&quantile) && maximum.is_finite() && maximum >= 1.0
            }
        };
        if valid {
            Ok(())
        } else {
            Err(DiffusionError::Clip(self.to_string()))
        }
    }

    /// Clips images `[batch, channels, height, width]`, each by itself.
    pub fn apply(self, z0: Tensor<4>) -> Tensor<4> {
        match self {
            Clip::Range(range) => z0.clamp(-range, range),
            Clip::Dynamic { quantile, maximum } => {
                // (z0 / s) clipped to [-1, 1] is z0 clipped to [-s, s] and divided by s.
                let s = quantiles(z0.clone().abs(), quantile).clamp(1.0, maximum);
                (z0 / s).clamp(-1.0, 1.0)
            }
        }
    }
}

/// The `quantile` of each image's values, interpolated linearly: `[batch, 1, 1, 1]` from `[batch,
/// channels, height, width]`.
fn quantiles(images: Tensor<4>, quantile: f64) -> Tensor<4> {
    let [batch, channels, height, width] = images.dims();
    let count = channels * height * width;
    let sorted = images.reshape([batch, count]).sort(1);
    let position = quantile * count.saturating_sub(1) as f64;
    let (below, above) = (position.floor(), position.ceil());
    let value = |position: f64| sorted.clone().narrow(1, position as usize, 1);
    let between = value(below) * (1.0 - (position - below)) + value(above) * (position - below);
    between.reshape([batch, 1, 1, 1])
}

impl fmt::Display for Clip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Clip::Range(range) => write!(formatter, "{range}"),
            Clip::DYNAMIC => write!(formatter, "dynamic"),
            Clip::Dynamic { quantile, maximum } => {
                write!(
                    formatter,
                    "dynamic (quantile {quantile}, maximum {maximum})"
                )
            }
        }
    }
}

impl FromStr for Clip {
    type Err = DiffusionError;

    /// A number above 0, or `dynamic`.
    fn from_str(text: &str) -> Result<Self, DiffusionError> {
        if text == "dynamic" {
            return Ok(Clip::DYNAMIC);
        }
        let range = (text.parse()).map_err(|_| DiffusionError::Clip(format!("`{text}`")))?;
        let clip = Clip::Range(range);
        clip.validate().map(|()| clip)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn a_threshold_is_each_images_own() {
        // The medians of the absolute values are 3 and 0.2.
        let images = vec![-4.0, 3.0, 1.0, 0.1, 0.2, -0.9];
        let images = Tensor::from_data(TensorData::new(images, [2, 1, 1, 3]), &Device::flex());
        let clip = |maximum| Clip::Dynamic {
            quantile: 0.5,
            maximum,
        };
        let third = 1.0 / 3.0;
        assert_eq!(
            values(clip(f64::MAX).apply(images.clone())),
            [-1.0, 1.0, third, 0.1, 0.2, -0.9]
        );
        assert_eq!(
            values(clip(2.0).apply(images.clone())),
            [-1.0, 1.0, 0.5, 0.1, 0.2, -0.9]
        );
        assert_eq!(
            values(clip(1.0).apply(images.clone())),
            values(Clip::Range(1.0).apply(images))
        );
    }

    #[test]
    fn quantiles_lie_between_values() {
        let images = Tensor::<4>::from_floats([[[[3.0, 1.0], [2.0, 5.0]]]], &Device::flex());
        for (quantile, expected) in [(0.0, 1.0), (0.5, 2.5), (0.9, 4.4), (1.0, 5.0)] {
            let found = values(quantiles(images.clone(), quantile))[0];
            assert!((found - expected).abs() < 1e-6, "{quantile}: {found}");
        }
    }

    #[test]
    fn configs_and_the_command_line_have_words_for_both() {
        assert_eq!("dynamic".parse(), Ok(Clip::DYNAMIC));
        assert_eq!("1.5".parse(), Ok(Clip::Range(1.5)));
        for text in ["0", "-1", "inf", "NaN", "", "wide"] {
            let message = text.parse::<Clip>().unwrap_err().to_string();
            assert!(message.contains("dynamic"), "{message}");
        }
        assert_eq!(
            serde_json::from_str::<Clip>("2.0").unwrap(),
            Clip::Range(2.0)
        );
        for clip in [Clip::DYNAMIC, Clip::Range(0.5)] {
            let written = serde_json::to_string(&clip).unwrap();
            assert_eq!(serde_json::from_str::<Clip>(&written).unwrap(), clip);
        }
        assert!(serde_json::from_str::<Clip>(r#"{"quantile": 0.9}"#).is_err());
    }

    #[test]
    fn impossible_thresholds_are_refused() {
        for (quantile, maximum) in [
            (-0.1, 2.0),
            (1.1, 2.0),
            (f64::NAN, 2.0),
            (0.9, 0.5),
            (0.9, f64::NAN),
        ] {
            assert!(Clip::Dynamic { quantile, maximum }.validate().is_err());
        }
    }
}
