//! The adversarial term of stage 1.

use kiln_models::DiscriminatorConfig;
use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require, within};
use super::extent::Extent;
use super::term_weight::TermWeight;
use super::training::TrainingConfig;

/// A discriminator that learns to tell images from reconstructions, and the term that rewards reconstructions which it
/// takes for images: the table `[stage_1.adversarial]`. VQGAN (Esser et al. 2021) trains its first stage so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversarialConfig {
    /// The weight of the term `-mean D(reconstruction)`.
    pub weight: TermWeight,
    /// When the term begins to count: a step, or a share of the training; default `"25%"`.
    #[serde(default = "default_start")]
    pub start: Extent,
    /// For how long the discriminator learns alone before that, at most from the first step on; default `"2%"`.
    #[serde(default = "default_head_start")]
    pub head_start: Extent,
    /// Over how long the term's weight rises from zero; default `"5%"`.
    #[serde(default = "default_ramp")]
    pub ramp: Extent,
    /// The weight of feature matching: the mean absolute difference of the discriminator's activations on images and
    /// reconstructions (Salimans et al. 2016, as in pix2pixHD); default 0.
    #[serde(default, skip_serializing_if = "TermWeight::is_zero")]
    pub feature_matching: TermWeight,
    /// The weight of LeCam regularisation (Tseng et al. 2021) in the discriminator's loss; default 0.
    #[serde(default)]
    pub lecam: f64,
    /// The random changes of images and reconstructions that the discriminator sees: DiffAugment (Zhao et al. 2020),
    /// for small data sets; default none.
    #[serde(default)]
    pub augmentation: Vec<DifferentiableChange>,
    /// The discriminator's network.
    #[serde(default)]
    pub discriminator: DiscriminatorConfig,
    /// The discriminator's largest learning rate. It follows the same curve as the autoencoder's; if absent, it is the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The decay rates of the discriminator's AdamW; default `[0.5, 0.9]`.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// The decoupled weight decay of the discriminator's AdamW; default 0.
    #[serde(default)]
    pub weight_decay: f64,
}

/// A random change of an image through which gradients flow. Image and reconstruction get the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DifferentiableChange {
    /// Brightness, saturation and contrast.
    Colour,
    /// A shift by up to an eighth of the side, with black from beyond the edge.
    Translation,
    /// A square of half the side becomes grey.
    Cutout,
}

fn default_start() -> Extent {
    Extent::Percent(25.0)
}
fn default_head_start() -> Extent {
    Extent::Percent(2.0)
}
fn default_ramp() -> Extent {
    Extent::Percent(5.0)
}
fn default_betas() -> [f64; 2] {
    [0.5, 0.9]
}

impl AdversarialConfig {
    /// The settings of the discriminator's training: those of `stage_1` with its own optimizer, and without an average
    /// of its weights.
    pub(crate) fn training(&self, stage_1: &TrainingConfig) -> TrainingConfig {
        TrainingConfig {
            learning_rate: self.learning_rate.unwrap_or(stage_1.learning_rate),
            betas: self.betas,
            weight_decay: self.weight_decay,
            ema: None,
            ..stage_1.clone()
        }
    }

    /// The steps of a training of `steps` in which the discriminator learns alone.
    pub(crate) fn learns_alone(&self, steps: usize) -> usize {
        self.head_start.of(steps).min(self.start.of(steps))
    }

    /// A sentence if the term never gets its whole weight in a training of `steps`.
    pub(crate) fn warning(&self, steps: usize) -> Option<String> {
        let (start, ramp) = (self.start.of(steps), self.ramp.of(steps));
        let counts = steps.saturating_sub(start);
        (counts < ramp).then(|| {
            let share = 100.0 * counts as f64 / ramp as f64;
            format!(
                "the adversarial term begins at step {start} of {steps} and rises for {ramp} steps (stage_1.adversarial.ramp), so it ends at {share:.1} % of its weight: let it begin earlier or rise faster"
            )
        })
    }

    /// Checks the table for images of this side.
    pub(super) fn validate(
        &self,
        stage_1: &TrainingConfig,
        side: usize,
    ) -> Result<(), ExperimentError> {
        const TABLE: &str = "stage_1.adversarial";
        let key = |key: &str| format!("{TABLE}.{key}");
        self.weight.validate(&key("weight"))?;
        self.feature_matching.validate(&key("feature_matching"))?;
        let table = key("discriminator");
        within(&table, self.discriminator.validate(side))?;
        let steps = stage_1.steps;
        let start = self.start.of(steps);
        require(start < steps, key("start"), self.start, || {
            format!(
                "the training has {steps} steps, so it must be less: a share such as \"25%\" fits any length"
            )
        })?;
        require(
            self.lecam >= 0.0 && (self.lecam as f32).is_finite(),
            key("lecam"),
            self.lecam,
            || "a weight is a number from 0; 0.001 to 0.1 is usual, and 0 leaves it out".into(),
        )?;
        self.training(stage_1).validate_optimizer(TABLE)
    }
}
