//! Why a model cannot do what is asked of it.

use std::path::PathBuf;

use burn::tensor::TensorReadError;
use kiln_diffusion::DiffusionError;
use kiln_hub::HubError;
use thiserror::Error;

/// A model, a request or a device that does not work; each message is one sentence.
#[derive(Debug, Error)]
pub enum Error {
    /// The model's folder is missing, incomplete or damaged.
    #[error(transparent)]
    Model(#[from] HubError),
    /// A network could not be built.
    #[error(transparent)]
    Network(#[from] kiln_models::ConfigError),
    /// A training step went wrong.
    #[error(transparent)]
    Training(#[from] kiln_train::TrainError),
    /// The first stage of a pixel-space experiment was to be measured.
    #[error(
        "the experiment is one in pixel space, without a [vqvae] to train or to decode with: measure stage-2 and sampling"
    )]
    NothingToMeasure,
    /// Sampling was asked for in a way that the schedule does not allow.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// The U-Net wants class labels.
    #[error(
        "the model is conditional on {classes} classes, and sampling from such models is not possible yet; use a model without classes"
    )]
    Conditional {
        /// How many classes there are.
        classes: usize,
    },
    /// The model does not say how large its latents are.
    #[error(
        "the model's unet/config.json has no `sample_size`, so the size of the images is unknown; add it, the side of the latents"
    )]
    NoSampleSize,
    /// Images with another number of channels.
    #[error(
        "the images have {channels} channel(s) but the model takes {expected}; use data.channels = {expected}"
    )]
    ImageChannels {
        /// What the images have.
        channels: usize,
        /// What the model takes.
        expected: usize,
    },
    /// Images that the model's levels cannot halve.
    #[error(
        "images of {height}x{width} do not fit the model: its sides must be multiples of {factor}"
    )]
    ImageSize {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// What both must be divisible by.
        factor: usize,
    },
    /// There is nothing here to examine.
    #[error(
        "{} is neither a model nor a run: give a folder with a model_index.json or config.json, or a run folder, which has a config.toml",
        .0.display()
    )]
    NoPatient(PathBuf),
    /// The device failed while computing.
    #[error("the device failed: {0}")]
    Compute(#[from] TensorReadError),
}
