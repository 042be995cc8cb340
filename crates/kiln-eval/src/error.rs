//! Why something could not be measured. Each message is one sentence.

use std::path::PathBuf;

use burn::tensor::TensorReadError;

/// A measurement that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Too few images for the measure.
    #[error("{what} needs at least {needed} images and there are {given}; use more")]
    TooFew {
        /// The measure.
        what: &'static str,
        /// The number of images.
        given: usize,
        /// The number that it needs.
        needed: usize,
    },
    /// A perceptual network that sees no difference.
    #[error(
        "the perceptual network is of no use: it gives a picture and its negative a distance of {0}; take the weights of a trained network"
    )]
    Blind(f64),
    /// Features of two different networks or layers.
    #[error(
        "features of length {left} cannot be compared with features of length {right}; take both from the same layer of the same network"
    )]
    Lengths {
        /// The length of the first ones.
        left: usize,
        /// The length of the second ones.
        right: usize,
    },
    /// Numbers that do not make whole rows, or are not finite.
    #[error("the features are damaged ({0}); compute them again")]
    Features(String),
    /// A file of stored features that has changed since it was written.
    #[error("{} is damaged ({reason}); remove it", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Images of a shape that the measure does not accept.
    #[error(
        "{what} cannot read images of {channels} channel(s) with {height}x{width} pixels; it takes {expected}"
    )]
    Shape {
        /// The network.
        what: &'static str,
        /// Their channels.
        channels: usize,
        /// Their rows.
        height: usize,
        /// Their columns.
        width: usize,
        /// What would be valid.
        expected: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file without the feature network's weights.
    #[error(
        "{} does not hold the weights of InceptionV3 under pytorch-fid's names ({reason}); give pytorch-fid's .pth, or a safetensors file with the same keys",
        path.display()
    )]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file without the weights of a backbone of LPIPS.
    #[error(
        "{} does not hold the weights of {network} under torchvision's names ({reason}); give torchvision's {file}, or a safetensors file with the same keys",
        path.display()
    )]
    Backbone {
        /// The file.
        path: PathBuf,
        /// The network.
        network: &'static str,
        /// The name of torchvision's file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file without an image classifier.
    #[error(
        "{} does not hold an image classifier ({reason}); give the model.safetensors of `kiln train-classifier` with a table [classifier] in its config",
        path.display()
    )]
    NotAClassifier {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A perceptual network that has no public weights.
    #[error(
        "the perceptual network `classifier` needs weights: name the model.safetensors of `kiln train-classifier`, or choose lpips-vgg16, lpips-alexnet or lpips-squeezenet"
    )]
    NoWeights,
    /// A weights file that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] kiln_checkpoint::CheckpointError),
    /// Weights that could not be downloaded.
    #[error(transparent)]
    Data(#[from] kiln_data::DataError),
    /// The classifier's weights do not fit.
    #[error(transparent)]
    Classifier(#[from] kiln_models::WeightsError),
    /// The device failed while computing.
    #[error("the device failed: {0}")]
    Compute(#[from] TensorReadError),
}
