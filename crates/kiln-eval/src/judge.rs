//! A network that looks at images, and what it saw.

use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::{DigitClassifier, DigitReadings, EvalError, Features, Inception};

/// Who looks at the images.
pub enum Judge {
    /// The digit classifier, with the SHA-256 of its weights.
    Digits(Box<DigitClassifier>, String),
    /// InceptionV3.
    Inception(Box<Inception>),
}

/// What a [`Judge`] saw in a set of images.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Digits, and how sure the classifier is of them.
    Digits(DigitReadings),
    /// Features alone.
    Features(Features),
}

impl Judge {
    /// The digit classifier whose weights are in this safetensors file.
    ///
    /// # Errors
    /// [`EvalError::Classifier`] when the file cannot be read or holds another network.
    pub fn digits(path: &Path, device: &Device) -> Result<Self, EvalError> {
        let bytes = std::fs::read(path).map_err(|source| EvalError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::digits_from_bytes(&bytes, device)
    }

    /// The digit classifier that is compiled in.
    ///
    /// # Errors
    /// Those of [`Self::digits`], which the built-in weights never give.
    pub fn built_in_digits(device: &Device) -> Result<Self, EvalError> {
        Self::digits_from_bytes(DigitClassifier::BUILT_IN, device)
    }

    fn digits_from_bytes(bytes: &[u8], device: &Device) -> Result<Self, EvalError> {
        let classifier = DigitClassifier::from_bytes(bytes, device)?;
        Ok(Self::Digits(Box::new(classifier), crate::sha256(bytes)))
    }

    /// What its figures depend on besides the images, as part of a file's name.
    pub fn identity(&self) -> String {
        match self {
            Self::Digits(_, sha256) => format!("digits-{:.12}", sha256),
            Self::Inception(inception) => inception.identity(),
        }
    }

    /// Who it is, in a sentence for those who read its figures.
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

    /// What the distances are called: `FID` and `KID` are those on Inception's features.
    pub fn names_of_distances(&self) -> [&'static str; 2] {
        match self {
            Self::Digits(..) => ["Frechet", "kernel"],
            Self::Inception(_) => ["FID", "KID"],
        }
    }

    /// Looks at images `[batch, channels, height, width]` in [-1, 1]; what exceeds that is clipped, as in a picture.
    ///
    /// # Errors
    /// [`EvalError::Shape`] for images that it cannot read, [`EvalError::Compute`] when the device fails.
    pub fn see(&self, images: Tensor<4>) -> Result<Seen, EvalError> {
        let images = images.clamp(-1.0, 1.0);
        Ok(match self {
            Self::Digits(classifier, _) => Seen::Digits(DigitReadings::of(classifier, images)?),
            Self::Inception(inception) => Seen::Features(inception.features(images)?),
        })
    }
}

impl Seen {
    /// One row an image.
    pub fn features(&self) -> &Features {
        match self {
            Self::Digits(readings) => &readings.features,
            Self::Features(features) => features,
        }
    }

    /// Adds what was seen in further images.
    ///
    /// # Errors
    /// [`EvalError::Lengths`] when another judge saw it.
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
