//! The distance of two images by the features of a network, which agrees better with what people see than squared
//! differences of pixels do.
//!
//! ```text
//! lpips.rs       LPIPS: the features of a network that knows photographs, weighted as people judge
//! backbone.rs    its three networks: VGG16, AlexNet, SqueezeNet 1.1
//! classifier.rs  the features of a classifier that kiln trained
//! kind.rs        the choice of a network
//! ```
//!
//! The networks are frozen. A distance can be measured, and its gradient trains a first stage.

mod backbone;
mod classifier;
mod kind;
mod lpips;

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_data::Progress;

use crate::EvalError;
pub use backbone::Backbone;
pub use classifier::ClassifierFeatures;
pub use kind::PerceptualKind;
pub use lpips::Lpips;

/// A frozen network whose features are compared. None of its parameters requires gradients, on any device.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and Burn's modules cannot be boxed"
)]
pub enum PerceptualNetwork {
    /// See [`Lpips`].
    Lpips(Lpips),
    /// See [`ClassifierFeatures`].
    Classifier(ClassifierFeatures),
}

impl PerceptualNetwork {
    /// The network of this kind on `device`. Its weights come from the file `weights`. Without one, LPIPS uses
    /// torchvision's, which are downloaded to the user's cache the first time (VGG16: 553 MB, AlexNet: 244 MB,
    /// SqueezeNet: 5 MB).
    ///
    /// # Errors
    /// [`EvalError::NoWeights`] for a classifier without `weights`; [`EvalError::File`], [`EvalError::Checkpoint`],
    /// [`EvalError::Backbone`] and [`EvalError::NotAClassifier`] for a file that cannot be read or has another network;
    /// [`EvalError::Data`] if the download fails.
    pub fn open(
        kind: PerceptualKind,
        weights: Option<&Path>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, EvalError> {
        let Some(backbone) = kind.backbone() else {
            let path = weights.ok_or(EvalError::NoWeights)?;
            return Ok(Self::Classifier(ClassifierFeatures::load(path, device)?));
        };
        Ok(Self::Lpips(match weights {
            Some(path) => Lpips::load(backbone, path, device)?,
            None => {
                let file = backbone.download();
                let downloaded = file.fetch(progress)?;
                Lpips::load(
                    backbone,
                    &downloaded.folder().join(file.file_name()),
                    device,
                )?
            }
        }))
    }

    /// Like [`Self::open`] without `weights`, but never downloads: `None` if the weights are not in the user's cache.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_cached(kind: PerceptualKind, device: &Device) -> Result<Option<Self>, EvalError> {
        let backbone = kind.backbone();
        let cached = backbone.and_then(|backbone| Some((backbone, backbone.download().cached()?)));
        let network = cached.map(|(backbone, path)| Lpips::load(backbone, &path, device));
        Ok(network.transpose()?.map(Self::Lpips))
    }

    /// Which kind of network it is.
    pub fn kind(&self) -> PerceptualKind {
        match self {
            Self::Lpips(lpips) => lpips.backbone().into(),
            Self::Classifier(_) => PerceptualKind::Classifier,
        }
    }

    /// Refuses images `[batch, channels, height, width]` that the network cannot read, and a network that cannot tell a
    /// picture from its negative: its weights are no ones that were trained.
    ///
    /// # Errors
    /// [`EvalError::Shape`] and [`EvalError::Blind`].
    pub fn check(&self, channels: usize, height: usize, width: usize) -> Result<(), EvalError> {
        match self {
            Self::Lpips(lpips) => lpips.check(channels, height, width),
            Self::Classifier(classifier) => classifier.check(channels, height, width),
        }?;
        let device = self
            .devices()
            .into_iter()
            .next()
            .unwrap_or_else(Device::flex);
        let numbers = channels * height * width;
        let ramp = (0..numbers).map(|place| (place % width) as f32 / width as f32 * 2.0 - 1.0);
        let shape = [1, channels, height, width];
        let ramp = Tensor::from_data(TensorData::new(ramp.collect(), shape), &device);
        let distance = self.distance(ramp.clone(), ramp.neg());
        let distance: f64 = distance.try_into_data_as::<f32>()?.iter::<f64>().sum();
        match distance.is_finite() && distance > 0.0 {
            true => Ok(()),
            false => Err(EvalError::Blind(distance)),
        }
    }

    /// Whether these are the weights that published figures were made with; true for a classifier, which has none.
    pub fn is_published(&self) -> bool {
        match self {
            Self::Lpips(lpips) => lpips.is_published(),
            Self::Classifier(_) => true,
        }
    }

    /// The mean distance, `[1]`, between the images of two batches `[batch, channels, height, width]` in [-1, 1]. It is
    /// 0 or more, and differentiable with respect to both.
    ///
    /// # Panics
    /// If [`Self::check`] refuses the images, or the batches have different shapes.
    pub fn distance(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<1> {
        self.distances(images, others).mean()
    }

    /// The distance of each image, `[batch]`, from the other batch's image at the same place. See [`Self::distance`].
    ///
    /// # Panics
    /// As [`Self::distance`].
    pub fn distances(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<1> {
        assert_eq!(images.dims(), others.dims(), "shapes of the two batches");
        match self {
            Self::Lpips(lpips) => lpips.distances(images, others),
            Self::Classifier(classifier) => classifier.distances(images, others),
        }
    }

    /// The SHA-256 of the weights' file: equal to a [`Judge`](crate::Judge)'s if both read the same file.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Lpips(lpips) => lpips.sha256(),
            Self::Classifier(classifier) => classifier.sha256(),
        }
    }

    /// Identifies everything besides the images that a distance depends on: the kind and the weights, as in
    /// `lpips-vgg16-` and twelve digits of its SHA-256.
    pub fn identity(&self) -> String {
        format!("{}-{:.12}", self.kind(), self.sha256())
    }

    /// A description for readers of its distances.
    pub fn description(&self) -> String {
        match self {
            Self::Lpips(lpips) if lpips.is_published() => {
                format!("LPIPS v0.1 by torchvision's {}", lpips.backbone().name())
            }
            Self::Lpips(lpips) => format!(
                "LPIPS v0.1 by {}, weights {:.12}: not comparable with published figures",
                lpips.backbone().name(),
                lpips.sha256()
            ),
            Self::Classifier(classifier) => {
                format!(
                    "features of kiln's classifier, weights {:.12}",
                    classifier.sha256()
                )
            }
        }
    }
}
