//! The errors of a training: each is one sentence.

use std::path::PathBuf;

use crate::experiment::experiment_error::ExperimentError;

/// Why a training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The experiment's description cannot work.
    #[error(transparent)]
    Config(#[from] ExperimentError),
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] kiln_data::DataError),
    /// The data could not be fetched from the Hub, or could not be read.
    #[error(transparent)]
    Hub(#[from] kiln_hub::TransportError),
    /// A model could not be read or written.
    #[error(transparent)]
    Model(#[from] kiln_checkpoint::CheckpointError),
    /// A network could not be built.
    #[error(transparent)]
    Network(#[from] kiln_models::ConfigError),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] kiln_models::WeightsError),
    /// Diffusion cannot do what was requested.
    #[error(transparent)]
    Diffusion(#[from] kiln_diffusion::DiffusionError),
    /// Drawn images could not be measured.
    #[error(transparent)]
    Evaluation(#[from] kiln_eval::EvalError),
    /// Images could not be drawn.
    #[error(transparent)]
    Drawing(#[from] kiln_pipeline::Error),
    /// A picture could not be written.
    #[error(transparent)]
    Picture(#[from] kiln_pipeline::pictures::PictureError),
    /// The devices cannot do what was requested.
    #[error(transparent)]
    Devices(#[from] kiln_pipeline::DeviceError),
    /// A device did not return its results.
    #[error("the device failed: {0}")]
    Device(#[from] burn::tensor::TensorReadError),
    /// Stage 1 or latent diffusion was requested, but the experiment is in pixel space.
    #[error(
        "the experiment has no first stage ([vqvae] or [autoencoder_kl], and [stage_1]), so its U-Net learns in pixel space: run `kiln train-diffusion`"
    )]
    NoFirstStage,
    /// Pixel-space diffusion was requested, but the experiment is in latent space.
    #[error(
        "the experiment has a first stage ([vqvae] or [autoencoder_kl]), so its U-Net learns in latent space: run `kiln train-vqvae`, then `kiln train-latent-diffusion`"
    )]
    InLatentSpace,
    /// The processes of a job cannot train together.
    #[error(transparent)]
    Ranks(#[from] crate::ranks::RanksError),
    /// A file of the run could not be written or read.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// The failed action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A table of metrics is not as it was written.
    #[error("{} is damaged, {problem}: repair it, or move it away to begin the curves with the next row", path.display())]
    Metrics {
        /// The table.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A number that must be finite is not.
    #[error(
        "the {quantity} became {value} at step {step}; {}; a lower learning rate or clip_norm usually helps",
        match last_good {
            Some(step) => format!("the last good checkpoint, of step {step}, is kept and --resume continues from it"),
            None => "there is no checkpoint yet".to_owned(),
        }
    )]
    Diverged {
        /// The name of the number.
        quantity: &'static str,
        /// Its value.
        value: f64,
        /// The step, counted from one, that produced it.
        step: usize,
        /// The newest good checkpoint.
        last_good: Option<usize>,
    },
    /// A stop was requested before the first step.
    #[error("stopped before the first step: there was nothing to save")]
    Stopped,
    /// The run folder does not have what the command expects.
    #[error("{0}")]
    Run(String),
    /// Burn's Learner stopped with an error.
    #[error("training stopped: {0}")]
    Learner(String),
    /// The devices cannot train together this way.
    #[error("{0}")]
    Strategy(String),
}

impl TrainError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
