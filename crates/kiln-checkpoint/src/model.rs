//! A whole model: networks and scheduler.

use std::path::Path;

use burn::tensor::Device;
use kiln_diffusion::{Guidance, SchedulerConfig, sampler::Sampler};
use kiln_models::{TimeEmbeddingType, UNet2d, WeightsType};

use crate::first_stage::hash_as_stored;
use crate::folder::NewFolder;
use crate::layout::{CONFIG, INDEX, SCHEDULER_CONFIG, WEIGHTS};
use crate::unet::{load_unet, write_unet};
use crate::{CheckpointError, FirstStage, Guide, Metadata, ModelIndex, ModelSource};

/// The record of a model's training, in its folder.
const RECORD: &str = "config.toml";

/// LDMPipeline's name for its autoencoder.
const VQVAE: &str = "vqvae";
const UNET: &str = "unet/";
const SCHEDULER: &str = "scheduler/";
/// Scaling factors that differ by less are the same.
const SAME_SCALE: f64 = 0.01;

/// A trained diffusion model: everything that sampling needs.
#[derive(Clone, Debug)]
pub struct DiffusionModel {
    /// The autoencoder whose latents are denoised. Without it the U-Net denoises the images themselves.
    pub first_stage: Option<FirstStage>,
    /// The denoising network.
    pub unet: UNet2d,
    /// A worse version of it, which guides it.
    pub guide: Option<Guide>,
    /// The noise schedule, the prediction type, and the default sampler.
    pub scheduler: SchedulerConfig,
    /// How the U-Net was trained, and facts about its data.
    pub metadata: Metadata,
}

impl DiffusionModel {
    /// Reads a model: a folder that kiln or diffusers wrote, or files compiled into the program.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or not supported. Refuses a U-Net that does not fit the VQ-VAE or was
    /// trained with another one.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self, CheckpointError> {
        let index = ModelIndex::read(source)?;
        let scheduler = load_scheduler(source)?;
        let (unet, metadata) = load_unet(source, folder_of(source, UNET), device)?;
        let scheduler = SchedulerConfig {
            sampler: in_segments(scheduler.sampler, &metadata),
            ..scheduler
        };
        let first_stage = if let Some((part, class)) = index.autoencoder {
            let first_stage = FirstStage::load_from(source, &format!("{part}/"), device)?;
            if first_stage.network.config().class() != class {
                return Err(CheckpointError::UnknownPart {
                    file: source.name(INDEX),
                    part,
                    found: format!("{class:?}"),
                    expected: first_stage.network.config().class(),
                });
            }
            check_hash(&first_stage, &metadata)?;
            Some(first_stage)
        } else {
            None
        };
        check_channels(first_stage.as_ref(), &unet)?;
        check_size(source, first_stage.as_ref(), &unet, &metadata)?;
        check_timesteps(&scheduler, &unet)?;
        let guide = if Guide::is_in(source) {
            let guide = Guide::load_from(source, device)?;
            guide.check(&unet)?;
            if let Some(first_stage) = &first_stage {
                check_hash(first_stage, &guide.metadata)?;
            }
            Some(guide)
        } else {
            None
        };
        Ok(Self {
            first_stage,
            unet,
            guide,
            scheduler,
            metadata,
        })
    }

    /// This model with the U-Net of a worse version of it, `worse`, as its guide.
    ///
    /// # Errors
    /// [`CheckpointError::Guide`] if the two do not denoise the same latents with the same schedule and prediction, or
    /// have different classes.
    pub fn guided_by(self, worse: Self, guidance: Guidance) -> Result<Self, CheckpointError> {
        let differs = |what| Err(CheckpointError::Guide { what });
        let hash = |model: &Self| model.first_stage.as_ref().map(FirstStage::hash);
        if self.scheduler.schedule != worse.scheduler.schedule {
            return differs("schedules");
        }
        if self.scheduler.prediction != worse.scheduler.prediction {
            return differs("predictions");
        }
        if hash(&self) != hash(&worse) {
            return differs("autoencoders");
        }
        let scale = |model: &Self| {
            let first_stage = model.first_stage.as_ref();
            first_stage.map_or(1.0, |stage| stage.network.config().scaling_factor())
        };
        // Each training measures the factor again, on latents that are rounded differently.
        if (scale(&self) / scale(&worse) - 1.0).abs() > SAME_SCALE {
            return differs("scaling factors");
        }
        let guide = Guide {
            unet: worse.unet,
            metadata: worse.metadata,
            guidance,
        };
        guide.check(&self.unet)?;
        Ok(Self {
            guide: Some(guide),
            ..self
        })
    }

    /// Writes a folder that diffusers reads with `DiffusionPipeline.from_pretrained`. An existing model is replaced
    /// when the new one is complete, if kiln wrote it. The VQ-VAE's hash is recorded with the U-Net.
    ///
    /// # Errors
    /// If the networks do not fit each other, if diffusers has no name for the scheduler, if the folder cannot be
    /// written, or if something else is there: see [`check_place`](crate::check_place).
    pub fn save(&self, folder: &Path, weights_type: WeightsType) -> Result<(), CheckpointError> {
        self.save_with_record(folder, weights_type, None)
    }

    /// Like [`Self::save`], with the `record` of its training, the text of a `config.toml`.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_with_record(
        &self,
        folder: &Path,
        weights_type: WeightsType,
        record: Option<&str>,
    ) -> Result<(), CheckpointError> {
        check_channels(self.first_stage.as_ref(), &self.unet)?;
        let mut metadata = self.metadata.clone();
        let hash = |first_stage: &FirstStage| hash_as_stored(&first_stage.network, weights_type);
        metadata.vqvae_hash = self.first_stage.as_ref().map(hash);
        if let Some(segments @ 2..) = self.scheduler.sampler.segments() {
            metadata.note_segments(segments);
        }
        if let Some(guide) = &self.guide {
            guide.check(&self.unet)?;
        }
        let written = self.scheduler.to_json();
        let class = self.scheduler.class_name();
        let (scheduler, class) =
            written
                .and_then(|text| Ok((text, class?)))
                .map_err(|problem| CheckpointError::Scheduler {
                    file: folder.join(SCHEDULER).display().to_string(),
                    problem,
                })?;
        let index = ModelIndex {
            autoencoder: (self.first_stage.as_ref())
                .map(|stage| (VQVAE, stage.network.config().class())),
            scheduler: class.to_owned(),
        };

        let files = NewFolder::begin(folder)?;
        files.write(INDEX, &index.to_json())?;
        files.write(&format!("{SCHEDULER}{SCHEDULER_CONFIG}"), &scheduler)?;
        write_unet(&files, UNET, &self.unet, weights_type, &metadata)?;
        if let Some(first_stage) = &self.first_stage {
            first_stage.write_to(&files, &format!("{VQVAE}/"), weights_type)?;
        }
        if let Some(guide) = &self.guide {
            guide.write_to(&files, weights_type, metadata.vqvae_hash)?;
        }
        if let Some(record) = record {
            files.write(RECORD, record)?;
        }
        files.place()
    }
}

/// `sampler` for the U-Net that `metadata` describes. diffusers has no sampler for a distillation in segments, so the file says
/// DDIM, which is the same in as many steps as segments.
fn in_segments(sampler: Sampler, metadata: &Metadata) -> Sampler {
    match (sampler, metadata.segments()) {
        (Sampler::Ddim { eta: 0.0, .. }, Some(segments)) => Sampler::Consistency { segments },
        _ => sampler,
    }
}

fn load_scheduler(source: &ModelSource) -> Result<SchedulerConfig, CheckpointError> {
    let file = format!("{}{SCHEDULER_CONFIG}", folder_of(source, SCHEDULER));
    let config = SchedulerConfig::from_json(&source.text(&file)?);
    config.map_err(|problem| CheckpointError::Scheduler {
        file: source.name(&file),
        problem,
    })
}

/// The folder of a part. Models from diffusers' first months, such as google/ddpm-cifar10-32, have U-Net and scheduler
/// beside the index instead of in their own folders.
fn folder_of(source: &ModelSource, part: &'static str) -> &'static str {
    let file = match part {
        SCHEDULER => SCHEDULER_CONFIG,
        _ => CONFIG,
    };
    if !source.has(&format!("{part}{file}")) && source.has(file) {
        ""
    } else {
        part
    }
}

/// The U-Net's output must have the shape of its input, which must be the latents' shape.
fn check_channels(first_stage: Option<&FirstStage>, unet: &UNet2d) -> Result<(), CheckpointError> {
    let (takes, gives) = (unet.config().in_channels, unet.config().out_channels);
    if takes != gives {
        return Err(CheckpointError::Prediction { takes, gives });
    }
    match first_stage.map(|first_stage| first_stage.network.config().latent_dim()) {
        Some(latents) if latents != takes => Err(CheckpointError::Channels { latents, takes }),
        _ => Ok(()),
    }
}

/// The border must leave something of an image.
fn check_size(
    source: &ModelSource,
    first_stage: Option<&FirstStage>,
    unet: &UNet2d,
    metadata: &Metadata,
) -> Result<(), CheckpointError> {
    let Some(size) = unet.config().sample_size else {
        return Ok(());
    };
    let factor = first_stage.map_or(1, |stage| stage.network.config().downscale_factor());
    let image = size.height_and_width().map(|side| side * factor);
    let folder = folder_of(source, UNET);
    metadata.check_border(image, &source.name(&format!("{folder}{WEIGHTS}")))?;
    match first_stage {
        // The autoencoder's border counts, and the U-Net may be made for smaller images than the autoencoder.
        Some(stage) => stage.metadata.check_border(image, &source.name(INDEX)),
        None => Ok(()),
    }
}

/// A learned table needs a row for every timestep.
fn check_timesteps(scheduler: &SchedulerConfig, unet: &UNet2d) -> Result<(), CheckpointError> {
    let timesteps = scheduler.schedule.num_train_timesteps;
    let config = unet.config();
    match (config.time_embedding_type, config.num_train_timesteps) {
        (TimeEmbeddingType::Learned, Some(rows)) if rows < timesteps => {
            Err(CheckpointError::Timesteps { rows, timesteps })
        }
        _ => Ok(()),
    }
}

fn check_hash(first_stage: &FirstStage, metadata: &Metadata) -> Result<(), CheckpointError> {
    let Some(expected) = &metadata.vqvae_hash else {
        return Ok(());
    };
    let found = first_stage.hash();
    if *expected == found {
        Ok(())
    } else {
        Err(CheckpointError::OtherVqVae {
            expected: expected.clone(),
            found,
        })
    }
}
