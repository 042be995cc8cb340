//! A network that judges images, and its output.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use kiln_data::Progress;
use serde::{Deserialize, Serialize};

use crate::{DigitClassifier, DigitReadings, EvalError, FeatureLayer, Features, Inception};

/// The network whose features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Spelling", into = "String")]
pub enum FeatureKind {
    /// The digit classifier's: `digits`.
    Digits,
    /// InceptionV3's after a layer: `2048`, `768` or `6c`.
    Inception(FeatureLayer),
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digits => formatter.write_str("digits"),
            Self::Inception(layer) => layer.fmt(formatter),
        }
    }
}

impl FromStr for FeatureKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || "features are `digits`, or InceptionV3's `2048`, `768` or `6c`".to_owned();
        match text {
            "digits" => Ok(Self::Digits),
            _ => Ok(Self::Inception(text.parse().map_err(|_| known())?)),
        }
    }
}

/// The spellings of a [`FeatureKind`] in a file: `"2048"` or 2048.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Number(u64),
}

impl TryFrom<Spelling> for FeatureKind {
    type Error = String;

    fn try_from(spelling: Spelling) -> Result<Self, String> {
        match spelling {
            Spelling::Text(text) => text.parse(),
            Spelling::Number(number) => number.to_string().parse(),
        }
    }
}

impl From<FeatureKind> for String {
    fn from(kind: FeatureKind) -> Self {
        kind.to_string()
    }
}

/// A network that judges images.
#[non_exhaustive]
pub enum Judge {
    /// The digit classifier, with the SHA-256 of its weights.
    Digits(Box<DigitClassifier>, String),
    /// InceptionV3.
    Inception(Box<Inception>),
}

/// A [`Judge`]'s output for a set of images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Seen {
    /// Digits with the classifier's confidence.
    Digits(DigitReadings),
    /// Features alone.
    Features(Features),
}

impl fmt::Debug for Judge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.description())
    }
}

impl Judge {
    /// The network for these features. Its weights come from the file `weights`. Without a file the digit classifier
    /// uses the weights inside this program, and InceptionV3 pytorch-fid's, which are downloaded the first time.
    ///
    /// For InceptionV3 images are resized to `side` x `side`: see [`Inception::load`].
    ///
    /// # Errors
    /// [`EvalError::File`], [`EvalError::Classifier`] and [`EvalError::Weights`] for a file that cannot be read or has
    /// another network, [`EvalError::Data`] if the download fails.
    pub fn open(
        features: FeatureKind,
        weights: Option<&Path>,
        side: usize,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, EvalError> {
        let FeatureKind::Inception(layer) = features else {
            return match weights {
                Some(path) => Self::digits_from_bytes(&crate::read(path)?, device),
                None => Self::digits_from_bytes(DigitClassifier::BUILT_IN, device),
            };
        };
        let load = |path: &Path| Inception::load(path, layer, Some(side), device);
        let inception = match weights {
            Some(path) => load(path)?,
            None => {
                let downloaded = kiln_data::pytorch_fid_weights(progress)?;
                load(&downloaded.folder().join(kiln_data::PYTORCH_FID_FILE))?
            }
        };
        Ok(Self::Inception(Box::new(inception)))
    }

    fn digits_from_bytes(bytes: &[u8], device: &Device) -> Result<Self, EvalError> {
        let classifier = DigitClassifier::from_bytes(bytes, device)?;
        Ok(Self::Digits(Box::new(classifier), kiln_data::sha256(bytes)))
    }

    /// Identifies everything besides the images that its figures depend on, as part of a file's name.
    pub fn identity(&self) -> String {
        match self {
            Self::Digits(_, sha256) => format!("digits-{:.12}", sha256),
            Self::Inception(inception) => inception.identity(),
        }
    }

    /// The SHA-256 of its weights' file. A [`PerceptualNetwork`](crate::PerceptualNetwork) with the same one must not train
    /// what it judges.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Digits(_, sha256) => sha256,
            Self::Inception(inception) => inception.sha256(),
        }
    }

    /// A description for readers of its figures.
    pub fn description(&self) -> String {
        match self {
            Self::Digits(_, sha256) => {
                format!("features of kiln's digit classifier, weights {sha256:.12}")
            }
            Self::Inception(inception) if inception.is_published() => {
                format!(
                    "InceptionV3 features {}, pytorch-fid's weights",
                    inception.layer()
                )
            }
            Self::Inception(inception) => format!(
                "InceptionV3 features {}, weights {:.12}: not comparable with published figures",
                inception.identity(),
                inception.sha256()
            ),
        }
    }

    /// The names of the distances: `FID` and `KID` for Inception's features.
    pub fn names_of_distances(&self) -> [&'static str; 2] {
        match self {
            Self::Digits(..) => ["Frechet", "kernel"],
            Self::Inception(_) => ["FID", "KID"],
        }
    }

    /// Judges images `[batch, channels, height, width]` in [-1, 1], clipped to this range as in a picture.
    ///
    /// # Errors
    /// [`EvalError::Shape`] for images that it cannot read, [`EvalError::Compute`] if the device fails.
    pub fn see(&self, images: Tensor<4>) -> Result<Seen, EvalError> {
        let images = images.clamp(-1.0, 1.0);
        Ok(match self {
            Self::Digits(classifier, _) => Seen::Digits(DigitReadings::of(classifier, images)?),
            Self::Inception(inception) => Seen::Features(inception.features(images)?),
        })
    }
}

impl Seen {
    /// One row per image.
    pub fn features(&self) -> &Features {
        match self {
            Self::Digits(readings) => &readings.features,
            Self::Features(features) => features,
        }
    }

    /// Adds the output for further images.
    ///
    /// # Errors
    /// [`EvalError::Lengths`] if it comes from another judge.
    pub fn append(&mut self, other: Self) -> Result<(), EvalError> {
        match (self, other) {
            (Self::Digits(readings), Self::Digits(other)) => readings.append(other),
            (Self::Features(features), Self::Features(other)) => features.append(other),
            (this, other) => Err(EvalError::Lengths {
                left: this.features().length(),
                right: other.features().length(),
            }),
        }
    }
}
