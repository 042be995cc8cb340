//! Refuses values that cannot work, and parts that do not fit each other, before any work starts.

use kiln_models::power_average::PowerAverage;
use kiln_models::{Autoencoder, AutoencoderConfig};

use super::experiment_error::{ExperimentError, require, within};
use super::{Experiment, FirstStageConfig, Stage1Config};
use crate::counted;

impl Experiment {
    /// Checks that the latents of an autoencoder trained elsewhere fit this experiment's U-Net.
    pub fn check_first_stage(&self, autoencoder: &Autoencoder) -> Result<(), ExperimentError> {
        let Some(first_stage) = &self.first_stage else {
            return Ok(());
        };
        let (own, given) = (&first_stage.network, autoencoder.config());
        let of_latents = match own {
            AutoencoderConfig::Vq(_) => "vq_embed_dim",
            AutoencoderConfig::Kl(_) => "latent_channels",
        };
        if own.class() != given.class() {
            tracing::warn!(
                "the autoencoder given by --vqvae is of diffusers' class {}, and not of the config's {}: config.toml describes another first stage than the model has",
                given.class(),
                own.class()
            );
        }
        let facts = [
            ("in_channels", given.in_channels(), own.in_channels()),
            (of_latents, given.latent_dim(), own.latent_dim()),
            (
                "block_out_channels",
                given.downscale_factor(),
                own.downscale_factor(),
            ),
        ];
        for (key, found, expected) in facts {
            let key = format!("{}.{key}", first_stage.table());
            require(found == expected, key, expected, || {
                format!(
                    "the autoencoder given by --vqvae has {found} there (channels, latent dimension or downscaling)"
                )
            })?;
        }
        Ok(())
    }

    /// Checks that the network has a row for each of the data set's `classes`, and one more for the null class if
    /// labels are dropped. `data` is the data set's name; without labels it has no classes.
    pub(crate) fn check_classes(
        &self,
        data: &str,
        classes: Option<usize>,
        unlabelled: Option<&str>,
    ) -> Result<(), ExperimentError> {
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
            let null = "and the null class, which replaces labels that stage_2.label_dropout drops";
            (classes + 1, format!("{} {null}", counted(classes, "class")))
        } else {
            (classes, counted(classes, "class"))
        };
        require(rows == wanted, "unet.num_class_embeds", rows, || {
            format!("{data} has {reason}, so it must be {wanted}")
        })
    }

    pub(super) fn validate(&self) -> Result<(), ExperimentError> {
        within("data", self.data.validate())?;
        self.validate_first_stage()?;
        within("unet", self.unet.validate())?;
        let schedule = self.build_schedule()?;
        within("stage_2.loss_weight", self.stage_2.loss_weight.validate())?;
        within("stage_2.noise_levels", self.stage_2.noise_levels.validate())?;
        if let Some(distillation) = &self.stage_2.distillation {
            let timesteps = schedule.num_train_timesteps();
            let (prediction, steps) = (self.stage_2.prediction, self.stage_2.training.steps);
            distillation.validate(prediction, steps, &self.sampling, timesteps)?;
        }
        // It must be possible to save the finished model.
        within("sampling", self.scheduler().to_json())?;
        self.stage_2.training.validate("stage_2.training")?;
        if let Some(evaluation) = &self.stage_2.evaluation {
            evaluation.validate(&self.stage_2.training)?;
        }
        self.validate_unet(schedule.num_train_timesteps())?;
        self.validate_averages()?;
        self.validate_labels()?;
        self.validate_sampling(schedule.num_train_timesteps())
    }

    fn validate_first_stage(&self) -> Result<(), ExperimentError> {
        let Some(first_stage) = &self.first_stage else {
            return Ok(());
        };
        let table = first_stage.table();
        let FirstStageConfig {
            network,
            codebook,
            stage_1,
        } = first_stage;
        let Stage1Config {
            reconstruction: _,
            commitment,
            kl,
            perceptual,
            adversarial,
            equivariance,
            training,
        } = stage_1;
        within(table, network.validate())?;
        within("codebook", codebook.validate())?;
        training.validate("stage_1.training")?;
        if let Some(perceptual) = perceptual {
            perceptual.validate()?;
        }
        if let Some(equivariance) = equivariance {
            equivariance.validate()?;
        }
        // A weight of 0 turns the term off.
        if let Some(adversarial) = adversarial
            .as_ref()
            .filter(|_| stage_1.adversarial().is_some())
        {
            let side = self.data.size;
            adversarial.validate(training, side)?;
            if let Some(table) = equivariance.filter(|table| table.probability > 0.0) {
                let (discriminator, scale) = (adversarial.discriminator, table.smallest_scale);
                let smallest = first_stage.smallest_side(side);
                let holds = discriminator.validate(smallest).is_ok();
                require(holds, "stage_1.equivariance.smallest_scale", scale, || {
                    format!(
                        "it brings images of {side}x{side} down to {smallest}x{smallest}, too small for stage_1.adversarial.discriminator.layers = {}: use a larger scale or fewer layers",
                        discriminator.layers
                    )
                })?;
            }
        }
        let channels = self.data.channels;
        for (key, value) in [
            ("in_channels", network.in_channels()),
            ("out_channels", network.out_channels()),
        ] {
            require(value == channels, format!("{table}.{key}"), value, || {
                format!(
                    "the images have {channels} channel(s) (data.channels), so it must be {channels}"
                )
            })?;
        }
        let factor = network.downscale_factor();
        require(
            self.data.size.is_multiple_of(factor),
            "data.size",
            self.data.size,
            || {
                format!(
                    "[{table}] halves images {} times, so it must be a multiple of {factor}",
                    factor.ilog2()
                )
            },
        )?;
        let of_vq = matches!(network, AutoencoderConfig::Vq(_));
        for (key, weight, has_term, its_table, usual) in [
            ("stage_1.commitment", commitment, of_vq, "vqvae", 0.25),
            ("stage_1.kl", kl, !of_vq, "autoencoder_kl", 1e-6),
        ] {
            let Some(weight) = weight else { continue };
            require(has_term, key, weight, || {
                format!(
                    "only [{its_table}] has that term, and the first stage is [{table}]: leave it out"
                )
            })?;
            let holds = *weight >= 0.0 && (*weight as f32).is_finite();
            require(holds, key, weight, || {
                format!("a weight is a number from 0; {usual} is usual")
            })?;
        }
        Ok(())
    }

    /// Checks that the U-Net fits its samples and the schedule's `timesteps`.
    fn validate_unet(&self, timesteps: usize) -> Result<(), ExperimentError> {
        let [channels, side, _] = self.sample_shape();
        let samples = match &self.first_stage {
            Some(_) => "the first stage's latents",
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
                    "{samples} of {side}x{side} are not divisible by {halvings}, which its {levels} levels need: use fewer levels or a larger size"
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

    fn validate_averages(&self) -> Result<(), ExperimentError> {
        let lengths = &self.stage_2.power_averages;
        let shown = || format!("{lengths:?}");
        let valid = || {
            format!(
                "it lists two or more different lengths above 0 and below {:.3}, such as [0.05, 0.10]; leave it out for none",
                PowerAverage::PLAIN_MEAN
            )
        };
        let are_lengths = lengths
            .iter()
            .all(|&length| PowerAverage::of_length(length).is_some());
        let are_different =
            (1..lengths.len()).all(|place| !lengths[..place].contains(&lengths[place]));
        let holds = lengths.is_empty() || lengths.len() > 1 && are_lengths && are_different;
        require(holds, "stage_2.power_averages", shown(), valid)
    }

    /// Checks the classes as far as possible without the data: see [`Self::check_classes`].
    fn validate_labels(&self) -> Result<(), ExperimentError> {
        if let Some(kind) = self.unet.class_embed_type {
            require(false, "unet.class_embed_type", format!("{kind:?}"), || {
                "classes are trained as a table of num_class_embeds rows: leave it out".into()
            })?;
        }
        let has_moments = (self.first_stage.as_ref())
            .is_some_and(|first_stage| matches!(first_stage.network, AutoencoderConfig::Kl(_)));
        require(
            has_moments || self.stage_2.posterior == super::PosteriorLatents::Mean,
            "stage_2.posterior",
            "sample",
            || "only [autoencoder_kl] gives latents to draw from: leave it out".into(),
        )?;
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

    fn validate_sampling(&self, timesteps: usize) -> Result<(), ExperimentError> {
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
