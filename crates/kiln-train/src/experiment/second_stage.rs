//! The second stage of an experiment: how the U-Net is trained.

use kiln_diffusion::{Distance, Loss, LossWeight, NoiseLevels, Prediction};
use serde::{Deserialize, Serialize};

use super::distillation::DistillationConfig;
use super::evaluation::EvaluationConfig;
use super::training::TrainingConfig;

/// The training of the U-Net: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage2Config {
    /// The meaning of the network's output.
    #[serde(default = "default_prediction")]
    pub prediction: Prediction,
    /// Distance between the prediction and the truth.
    #[serde(default)]
    pub loss: Distance,
    /// The component whose distance counts. If absent: the predicted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<Prediction>,
    /// The weight of each noise level in the loss.
    #[serde(default)]
    pub loss_weight: LossWeight,
    /// The distribution of the training images' noise.
    #[serde(default)]
    pub noise_levels: NoiseLevels,
    /// Share of the images that are shown without their class, in [0, 1). Classifier-free guidance needs it (Ho and
    /// Salimans 2022). Only for a U-Net with classes.
    #[serde(default)]
    pub label_dropout: f64,
    /// The numbers in the files of latents: `f32`, or `f16` for half the size.
    #[serde(default, skip_serializing_if = "LatentNumbers::is_default")]
    pub latents: LatentNumbers,
    /// Which latents of `[autoencoder_kl]` the network learns from: `mean`, or `sample`, which draws each latent again in each
    /// step, as latent diffusion and diffusers' scripts do.
    #[serde(default, skip_serializing_if = "PosteriorLatents::is_default")]
    pub posterior: PosteriorLatents,
    /// How the network learns from a teacher. If absent: it learns to denoise, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// The lengths, as shares of the steps so far, of two or more averages of the weights that are kept at each checkpoint,
    /// so that an average of any length can be had afterwards (EDM2). If absent: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub power_averages: Vec<f64>,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
    /// Distances between drawn and real images, measured now and then. If absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
}

/// The numbers in the files of latents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LatentNumbers {
    /// As the encoder gives them.
    #[default]
    F32,
    /// To three digits.
    F16,
}

impl LatentNumbers {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The latents that the network learns from where the first stage gives a distribution of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PosteriorLatents {
    /// Its mean: always the same latents.
    #[default]
    Mean,
    /// A sample, another one in each step.
    Sample,
}

impl PosteriorLatents {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Stage2Config {
    /// The loss that the network minimises.
    pub fn objective(&self) -> Loss {
        Loss {
            prediction: self.prediction,
            on: self.loss_on.unwrap_or(self.prediction),
            distance: self.loss,
            weight: self.loss_weight,
        }
    }
}

fn default_prediction() -> Prediction {
    Prediction::Noise
}
