//! The second stage of an experiment: how the U-Net is trained.

use kiln_diffusion::{Distance, Loss, LossWeight, NoiseLevels, Prediction};
use serde::{Deserialize, Serialize};

use super::evaluation::EvaluationConfig;
use super::training::TrainingConfig;

/// Training the U-Net: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage2Config {
    /// What the network's output means.
    #[serde(default = "default_prediction")]
    pub prediction: Prediction,
    /// Distance between what the network's output stands for and the truth.
    #[serde(default)]
    pub loss: Distance,
    /// The component whose distance is taken; absent: what is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<Prediction>,
    /// How much each noise level counts in the loss.
    #[serde(default)]
    pub loss_weight: LossWeight,
    /// How noisy the images are that the network is trained on.
    #[serde(default)]
    pub noise_levels: NoiseLevels,
    /// Share of the images that are shown without their class, in [0, 1): what classifier-free guidance needs to have
    /// been trained (Ho and Salimans 2022). Only for a U-Net with classes.
    #[serde(default)]
    pub label_dropout: f64,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
    /// Distances between drawn and real images, measured now and then. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationConfig>,
}

impl Stage2Config {
    /// What the network minimises.
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
