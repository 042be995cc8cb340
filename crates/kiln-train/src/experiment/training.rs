//! The settings of every stage's training: the optimizer, its steps, and what is kept along the way.

use kiln_kernels::Precision;
use kiln_models::ema::EmaConfig;
use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require, within};
use super::interval::Interval;

/// The largest number of weight updates: more than any training needs.
const MOST_STEPS: usize = 100_000_000;
/// The largest number of images per device in a step.
const MOST_STEP_IMAGES: usize = 1 << 20;
/// The largest value of the other counts: checkpoints, images, steps between pictures.
const MOST: usize = 1 << 31;

/// The optimizer (AdamW), its learning rate over time, and what is kept along the way.
///
/// A *step* is one update of the weights. It sees `batch_size` x devices x `accumulate` images.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Updates of the weights in the whole training.
    pub steps: usize,
    /// Images per device in one forward and backward pass.
    pub batch_size: usize,
    /// Batches whose gradients are summed for one step. If there are several, a step may see each training image at
    /// most 100 times; this is checked when the data is known.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// The end of the cosine; equal to `learning_rate` for a constant rate.
    #[serde(default)]
    pub final_learning_rate: f64,
    /// Steps over which the rate rises linearly from zero.
    #[serde(default)]
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay rates of the first and second moment.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Largest Euclidean norm of all gradients together; larger gradients are scaled down. Zero means no limit.
    #[serde(default = "default_clip_norm")]
    pub clip_norm: f64,
    /// The type of numbers that the convolutions multiply: `f32` or `bf16`. Weights, sums and losses are `f32` in
    /// either case.
    #[serde(default)]
    pub precision: Precision,
    /// Average of the weights, used for validation, pictures and the finished model. If absent: none.
    #[serde(default)]
    pub ema: Option<EmaConfig>,
    /// Steps from one checkpoint, validation and row of `metrics.csv` to the next, or passes: `"1 pass"`.
    pub checkpoint_every: Interval,
    /// The number of newest checkpoints that stay on disk, beside the best one.
    #[serde(default = "default_keep")]
    pub keep_checkpoints: usize,
    /// Checkpoints from one picture to the next, or passes, rounded to the nearest checkpoint. Zero means no pictures.
    #[serde(default = "every_one")]
    pub pictures_every: Interval,
    /// The number of images in a validation, spread evenly over the validation split. Zero means all.
    #[serde(default)]
    pub validation_images: usize,
}

fn one() -> usize {
    1
}
fn every_one() -> Interval {
    Interval::Every(1)
}
fn default_keep() -> usize {
    2
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_epsilon() -> f64 {
    1e-8
}
fn default_clip_norm() -> f64 {
    1.0
}

impl TrainingConfig {
    /// The chosen ones of the `available` validation images. They are not the first ones, because many data sets are
    /// sorted by class.
    pub(crate) fn validated(&self, available: usize) -> Vec<u32> {
        let count = match self.validation_images {
            0 => available,
            limit => limit.min(available),
        };
        (0..count)
            .map(|place| (place * available / count) as u32)
            .collect()
    }

    /// `table` names these settings in errors.
    pub(super) fn validate(&self, table: &str) -> Result<(), ExperimentError> {
        let counts = [
            ("steps", self.steps, 1, MOST_STEPS),
            ("batch_size", self.batch_size, 1, MOST_STEP_IMAGES),
            ("accumulate", self.accumulate, 1, MOST_STEP_IMAGES),
            ("keep_checkpoints", self.keep_checkpoints, 1, MOST),
            ("warmup_steps", self.warmup_steps, 0, MOST),
            ("validation_images", self.validation_images, 0, MOST),
        ];
        for (key, count, least, most) in counts {
            let valid = || match count < least {
                true => format!("it must be at least {least}"),
                false => format!("it must be at most {most}"),
            };
            let holds = (least..=most).contains(&count);
            require(holds, format!("{table}.{key}"), count, valid)?;
        }
        let images = self.batch_size * self.accumulate;
        let key = format!("{table}.accumulate");
        require(images <= MOST_STEP_IMAGES, key, self.accumulate, || {
            format!(
                "with batch_size = {} that makes {images} images a step on each device, and {MOST_STEP_IMAGES} are the most",
                self.batch_size
            )
        })?;
        let is_bounded = |interval: Interval| match interval {
            Interval::Every(count) => count <= MOST,
            Interval::Passes(passes) => passes <= MOST as f64,
        };
        let (checkpoints, pictures) = (self.checkpoint_every, self.pictures_every);
        let key = format!("{table}.checkpoint_every");
        let holds = checkpoints.is_positive() && is_bounded(checkpoints);
        require(holds, key, checkpoints, || {
            format!(
                "it must be at least 1 step, or more than 0 passes, such as \"1 pass\", and at most {MOST}"
            )
        })?;
        let key = format!("{table}.pictures_every");
        let is_none = pictures == Interval::Every(0);
        let holds = (is_none || pictures.is_positive()) && is_bounded(pictures);
        require(holds, key, pictures, || {
            format!(
                "it must be a number of checkpoints, or of passes, such as \"1 pass\", at most {MOST}; 0 draws none"
            )
        })?;
        let (rate, last) = (self.learning_rate, self.final_learning_rate);
        self.validate_optimizer(table)?;
        let key = format!("{table}.final_learning_rate");
        require((0.0..=rate).contains(&last), key, last, || {
            "it must lie between 0 and learning_rate, such as 1e-5".into()
        })?;
        match &self.ema {
            Some(ema) => within(&format!("{table}.ema"), ema.validate()),
            None => Ok(()),
        }
    }

    /// Checks the settings of AdamW. `table` names them in errors.
    pub(super) fn validate_optimizer(&self, table: &str) -> Result<(), ExperimentError> {
        let rate = self.learning_rate;
        let numbers = [
            (
                "learning_rate",
                rate,
                rate > 0.0 && rate <= 1.0,
                "it must lie above 0 and at most at 1, such as 1e-3",
            ),
            (
                "weight_decay",
                self.weight_decay,
                (0.0..1.0).contains(&self.weight_decay),
                "it must lie from 0 to below 1, such as 0.01",
            ),
            (
                "epsilon",
                self.epsilon,
                self.epsilon > 0.0,
                "it must lie above 0, such as 1e-8",
            ),
            (
                "clip_norm",
                self.clip_norm,
                self.clip_norm >= 0.0,
                "it must be positive, such as 1.0, or 0 for no limit",
            ),
        ];
        for (key, value, holds, valid) in numbers {
            require(holds, format!("{table}.{key}"), value, || valid.into())?;
        }
        let valid = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        let betas = format!("{:?}", self.betas);
        require(valid, format!("{table}.betas"), betas, || {
            "both must lie from 0 to below 1, as in [0.9, 0.999]".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validation_looks_at_images_from_all_over_the_split() {
        let validated = |validation_images: usize, available| {
            let text = format!(
                "steps = 1\nbatch_size = 1\nlearning_rate = 0.1\ncheckpoint_every = 1\nvalidation_images = {validation_images}"
            );
            toml::from_str::<TrainingConfig>(&text)
                .unwrap()
                .validated(available)
        };
        assert_eq!(validated(4, 10), [0, 2, 5, 7]);
        assert_eq!(validated(0, 3), [0, 1, 2]);
        assert_eq!(validated(9, 3), [0, 1, 2]);
        assert_eq!(validated(2, 0), [0; 0]);
    }
}
