//! What is refused before any work starts: values that cannot work, and parts that do not fit each other.

use kiln_models::VqVaeConfig;

use super::{ConfigError, Experiment, TrainingConfig};

impl Experiment {
    /// Checks that a VQ-VAE trained elsewhere gives the latents that this experiment's U-Net takes.
    pub fn check_first_stage(&self, vqvae: &VqVaeConfig) -> Result<(), ConfigError> {
        let own = &self.vqvae;
        let facts = [
            ("vqvae.in_channels", vqvae.in_channels, own.in_channels),
            ("vqvae.vq_embed_dim", vqvae.latent_dim(), own.latent_dim()),
            (
                "vqvae.block_out_channels",
                vqvae.downscale_factor(),
                own.downscale_factor(),
            ),
        ];
        for (key, found, expected) in facts {
            require(found == expected, key, expected, || {
                format!(
                    "the VQ-VAE given by --vqvae has {found} there (channels, latent dimension or downscaling)"
                )
            })?;
        }
        Ok(())
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("data", self.data.validate())?;
        within("vqvae", self.vqvae.validate())?;
        within("codebook", self.codebook.validate())?;
        within("unet", self.unet.validate())?;
        if let Some(ema) = &self.stage_1.training.ema {
            within("stage_1.training.ema", ema.validate())?;
        }
        if let Some(ema) = &self.stage_2.training.ema {
            within("stage_2.training.ema", ema.validate())?;
        }
        let schedule = self.build_schedule()?;
        within("stage_2.loss_weight", self.stage_2.loss_weight.validate())?;
        within("stage_2.noise_levels", self.stage_2.noise_levels.validate())?;
        // The finished model must be one that can be saved.
        within("sampling", self.scheduler().to_json())?;
        self.stage_1.training.validate("stage_1.training")?;
        self.stage_2.training.validate("stage_2.training")?;

        let channels = self.data.channels;
        for (key, value) in [
            ("vqvae.in_channels", self.vqvae.in_channels),
            ("vqvae.out_channels", self.vqvae.out_channels),
        ] {
            require(value == channels, key, value, || {
                format!(
                    "the images have {channels} channel(s) (data.channels), so it must be {channels}"
                )
            })?;
        }
        let factor = self.vqvae.downscale_factor();
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
        let [latent_channels, side, _] = self.latent_shape();
        for (key, value) in [
            ("unet.in_channels", self.unet.in_channels),
            ("unet.out_channels", self.unet.out_channels),
        ] {
            require(value == latent_channels, key, value, || {
                format!(
                    "the VQ-VAE's latents have {latent_channels} channels, so it must be {latent_channels}"
                )
            })?;
        }
        if let Some(sample_size) = self.unet.sample_size.map(|size| size.height_and_width()) {
            require(
                sample_size == [side, side],
                "unet.sample_size",
                sample_size[0],
                || format!("the VQ-VAE's latents are {side}x{side}, so it must be {side}"),
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
                    "its {levels} levels divide by {halvings}, which latents of {side}x{side} cannot be: use fewer levels or larger latents"
                )
            },
        )?;
        if let Some(classes) = self.unet.num_class_embeds {
            require(false, "unet.num_class_embeds", classes, || {
                "models with classes cannot be trained yet: leave it out".into()
            })?;
        }
        if let Some(kind) = self.unet.class_embed_type {
            require(false, "unet.class_embed_type", format!("{kind:?}"), || {
                "models with classes cannot be trained yet: leave it out".into()
            })?;
        }
        let timesteps = schedule.num_train_timesteps();
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
        require(
            (1..=timesteps).contains(&self.sampling.steps),
            "sampling.steps",
            self.sampling.steps,
            || format!("it must lie between 1 and schedule.num_train_timesteps = {timesteps}"),
        )?;
        require(
            (0.0..=1.0).contains(&self.sampling.eta),
            "sampling.eta",
            self.sampling.eta,
            || "it must lie between 0 (DDIM) and 1 (DDPM)".into(),
        )?;
        require(
            (1..=4096).contains(&self.sampling.count),
            "sampling.count",
            self.sampling.count,
            || "a picture holds between 1 and 4096 images".into(),
        )?;
        require(
            self.stage_1.commitment >= 0.0,
            "stage_1.commitment",
            self.stage_1.commitment,
            || "a weight cannot be negative".into(),
        )
    }
}

impl TrainingConfig {
    /// `table` names these settings in errors.
    fn validate(&self, table: &str) -> Result<(), ConfigError> {
        let counts = [
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
        ];
        for (key, count) in counts {
            require(count > 0, format!("{table}.{key}"), count, || {
                "it must be at least 1".into()
            })?;
        }
        let rate = self.learning_rate;
        let numbers = [
            (
                "learning_rate",
                rate,
                rate > 0.0 && rate <= 1.0,
                "it must lie above 0 and at most at 1",
            ),
            (
                "final_learning_rate",
                self.final_learning_rate,
                (0.0..=rate).contains(&self.final_learning_rate),
                "it must lie between 0 and learning_rate",
            ),
            (
                "weight_decay",
                self.weight_decay,
                (0.0..1.0).contains(&self.weight_decay),
                "it must lie between 0 and 1",
            ),
            (
                "epsilon",
                self.epsilon,
                self.epsilon > 0.0,
                "it must lie above 0",
            ),
            (
                "clip_norm",
                self.clip_norm,
                self.clip_norm >= 0.0,
                "it must be positive, or 0 for no limit",
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
                || "both must lie from 0 to below 1".into(),
            )?;
        }
        Ok(())
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

fn require(
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
