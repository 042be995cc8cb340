//! What is refused before any work starts: values that cannot work, and parts that do not fit each other.

use kiln_models::Autoencoder;

use super::{ConfigError, Experiment, FirstStageConfig, Interval, TrainingConfig};
use crate::counted;

impl Experiment {
    /// Checks that an autoencoder trained elsewhere gives the latents that this experiment's U-Net takes.
    pub fn check_first_stage(&self, autoencoder: &Autoencoder) -> Result<(), ConfigError> {
        let Some(FirstStageConfig { vqvae: own, .. }) = &self.first_stage else {
            return Ok(());
        };
        let facts = [
            (
                "vqvae.in_channels",
                autoencoder.config().in_channels(),
                own.in_channels,
            ),
            (
                "vqvae.vq_embed_dim",
                autoencoder.config().latent_dim(),
                own.latent_dim(),
            ),
            (
                "vqvae.block_out_channels",
                autoencoder.config().downscale_factor(),
                own.downscale_factor(),
            ),
        ];
        for (key, found, expected) in facts {
            require(found == expected, key, expected, || {
                format!(
                    "the autoencoder given by --vqvae has {found} there (channels, latent dimension or downscaling)"
                )
            })?;
        }
        Ok(())
    }

    /// Checks that the network has a row for each of the data set's `classes`, and one more for the null class where
    /// labels are dropped. `data` is the data set's name; without labels it has no classes.
    pub(crate) fn check_classes(
        &self,
        data: &str,
        classes: Option<usize>,
        unlabelled: Option<&str>,
    ) -> Result<(), ConfigError> {
        let Some(rows) = self.unet.num_class_embeds else {
            return Ok(());
        };
        let Some(classes) = classes else {
            return require(false, "unet.num_class_embeds", rows, || match unlabelled {
                Some(some) => {
                    format!("{some}, so give it one or take it out, or leave the key out")
                }
                None => format!("the images of {data} have no labels, so leave it out"),
            });
        };
        let dropout = self.stage_2.label_dropout;
        let (wanted, reason) = if dropout > 0.0 {
            let null = "and the null class that stage_2.label_dropout puts in their place";
            (classes + 1, format!("{} {null}", counted(classes, "class")))
        } else {
            (classes, counted(classes, "class"))
        };
        require(rows == wanted, "unet.num_class_embeds", rows, || {
            format!("{data} has {reason}, so it must be {wanted}")
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("data", self.data.validate())?;
        self.validate_first_stage()?;
        within("unet", self.unet.validate())?;
        let schedule = self.build_schedule()?;
        within("stage_2.loss_weight", self.stage_2.loss_weight.validate())?;
        within("stage_2.noise_levels", self.stage_2.noise_levels.validate())?;
        // The finished model must be one that can be saved.
        within("sampling", self.scheduler().to_json())?;
        self.stage_2.training.validate("stage_2.training")?;
        if let Some(evaluation) = &self.stage_2.evaluation {
            evaluation.validate(&self.stage_2.training)?;
        }
        self.validate_unet(schedule.num_train_timesteps())?;
        self.validate_labels()?;
        self.validate_sampling(schedule.num_train_timesteps())
    }

    fn validate_first_stage(&self) -> Result<(), ConfigError> {
        let Some(FirstStageConfig {
            vqvae,
            codebook,
            stage_1,
        }) = &self.first_stage
        else {
            return Ok(());
        };
        within("vqvae", vqvae.validate())?;
        within("codebook", codebook.validate())?;
        stage_1.training.validate("stage_1.training")?;
        let channels = self.data.channels;
        for (key, value) in [
            ("vqvae.in_channels", vqvae.in_channels),
            ("vqvae.out_channels", vqvae.out_channels),
        ] {
            require(value == channels, key, value, || {
                format!(
                    "the images have {channels} channel(s) (data.channels), so it must be {channels}"
                )
            })?;
        }
        let factor = vqvae.downscale_factor();
        require(
            self.data.size.is_multiple_of(factor),
            "data.size",
            self.data.size,
            || {
                format!(
                    "the VQ-VAE halves images {} times, so it must be a multiple of {factor}",
                    factor.ilog2()
                )
            },
        )?;
        require(
            stage_1.commitment >= 0.0,
            "stage_1.commitment",
            stage_1.commitment,
            || "a weight cannot be negative; 0.25 is usual".into(),
        )
    }

    /// Whether the U-Net fits what it denoises and the schedule's `timesteps`.
    fn validate_unet(&self, timesteps: usize) -> Result<(), ConfigError> {
        let [channels, side, _] = self.sample_shape();
        let samples = match &self.first_stage {
            Some(_) => "the VQ-VAE's latents",
            None => "the images",
        };
        for (key, value) in [
            ("unet.in_channels", self.unet.in_channels),
            ("unet.out_channels", self.unet.out_channels),
        ] {
            require(value == channels, key, value, || {
                format!("{samples} have {channels} channels, so it must be {channels}")
            })?;
        }
        if let Some(sample_size) = self.unet.sample_size.map(|size| size.height_and_width()) {
            require(
                sample_size == [side, side],
                "unet.sample_size",
                sample_size[0],
                || format!("{samples} are {side}x{side}, so it must be {side}"),
            )?;
        }
        let levels = self.unet.block_out_channels.len();
        let halvings = 1 << levels.saturating_sub(1);
        require(
            side.is_multiple_of(halvings),
            "unet.block_out_channels",
            levels,
            || {
                format!(
                    "its {levels} levels divide by {halvings}, which {samples} of {side}x{side} cannot be: use fewer levels or a larger size"
                )
            },
        )?;
        if let Some(known) = self.unet.num_train_timesteps {
            require(
                known >= timesteps,
                "unet.num_train_timesteps",
                known,
                || {
                    format!(
                        "the schedule has {timesteps} timesteps, so it must be at least {timesteps}"
                    )
                },
            )?;
        }
        Ok(())
    }

    /// What can be known about classes without the data: see [`Self::check_classes`].
    fn validate_labels(&self) -> Result<(), ConfigError> {
        if let Some(kind) = self.unet.class_embed_type {
            require(false, "unet.class_embed_type", format!("{kind:?}"), || {
                "classes are trained as a table of num_class_embeds rows: leave it out".into()
            })?;
        }
        let dropout = self.stage_2.label_dropout;
        require(
            (0.0..1.0).contains(&dropout),
            "stage_2.label_dropout",
            dropout,
            || "a share of the labels lies from 0 to below 1, such as 0.1".into(),
        )?;
        require(
            dropout == 0.0 || self.unet.num_class_embeds.is_some(),
            "stage_2.label_dropout",
            dropout,
            || {
                "the network has no classes to drop: leave it out, or set unet.num_class_embeds to their number and one more"
                    .into()
            },
        )
    }

    fn validate_sampling(&self, timesteps: usize) -> Result<(), ConfigError> {
        require(
            (1..=timesteps).contains(&self.sampling.steps),
            "sampling.steps",
            self.sampling.steps,
            || format!("it must lie between 1 and schedule.num_train_timesteps = {timesteps}"),
        )?;
        within("sampling.sampler", self.sampling.sampler.validate())?;
        require(
            (1..=4096).contains(&self.sampling.count),
            "sampling.count",
            self.sampling.count,
            || "a picture holds between 1 and 4096 images".into(),
        )?;
        match self.sampling.clip {
            Some(clip) => require(clip.validate().is_ok(), "sampling.clip", clip, || {
                "it must be a number above 0, or a `quantile` from 0 to 1 with a `maximum` of at least 1; leave it out for no limit"
                        .into()
            }),
            None => Ok(()),
        }
    }
}

/// The most updates of the weights: more than any training takes.
const MOST_STEPS: usize = 100_000_000;
/// The most images of one device in a step.
const MOST_STEP_IMAGES: usize = 1 << 20;
/// The most of what else is counted: checkpoints, images, steps between pictures.
const MOST: usize = 1 << 31;

impl TrainingConfig {
    /// `table` names these settings in errors.
    pub(super) fn validate(&self, table: &str) -> Result<(), ConfigError> {
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
        let rate = self.learning_rate;
        let numbers = [
            (
                "learning_rate",
                rate,
                rate > 0.0 && rate <= 1.0,
                "it must lie above 0 and at most at 1, such as 1e-3",
            ),
            (
                "final_learning_rate",
                self.final_learning_rate,
                (0.0..=rate).contains(&self.final_learning_rate),
                "it must lie between 0 and learning_rate, such as 1e-5",
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
        for beta in self.betas {
            require(
                (0.0..1.0).contains(&beta),
                format!("{table}.betas"),
                beta,
                || "both must lie from 0 to below 1, as in [0.9, 0.999]".into(),
            )?;
        }
        match &self.ema {
            Some(ema) => within(&format!("{table}.ema"), ema.validate()),
            None => Ok(()),
        }
    }
}

/// Says in which table an error lies.
pub(super) fn within<T, E: std::fmt::Display>(
    table: &str,
    result: Result<T, E>,
) -> Result<T, ConfigError> {
    result.map_err(|error| ConfigError::Parse {
        origin: format!("[{table}] of the config"),
        message: error.to_string(),
    })
}

pub(super) fn require(
    holds: bool,
    key: impl Into<String>,
    value: impl ToString,
    valid: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Value {
        key: key.into(),
        value: value.to_string(),
        valid: valid(),
    })
}
