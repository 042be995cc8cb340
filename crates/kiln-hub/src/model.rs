//! A whole model: networks and scheduler.

use std::path::Path;

use burn::tensor::Device;
use kiln_diffusion::SchedulerConfig;
use kiln_diffusion::sampler::Sampler;
use kiln_models::{UNet2d, UNet2dConfig, WeightsType, load_weights_from_bytes};

use crate::first_stage::{CONFIG, WEIGHTS, hash_as_stored};
use crate::folder::NewFolder;
use crate::index::{INDEX, ModelIndex};
use crate::{FirstStage, HubError, Metadata, ModelSource};

const VQVAE: &str = "vqvae/";
const UNET: &str = "unet/";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// A trained diffusion model: everything that sampling needs.
#[derive(Clone, Debug)]
pub struct LatentDiffusion {
    /// The VQ-VAE whose latents are denoised. Without it the U-Net denoises the images themselves.
    pub first_stage: Option<FirstStage>,
    /// The denoising network.
    pub unet: UNet2d,
    /// The noise schedule, the prediction type, and how the model is meant to be sampled.
    pub scheduler: SchedulerConfig,
    /// How the U-Net was trained, and facts about its data.
    pub metadata: Metadata,
}

impl LatentDiffusion {
    /// Reads a model: a folder that kiln or diffusers wrote, or files compiled into the program.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or not supported; says so if the U-Net does not fit the VQ-VAE
    /// or was trained with another one.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self, HubError> {
        let index = ModelIndex::read(source)?;
        let scheduler =
            SchedulerConfig::from_json(&source.text(SCHEDULER)?).map_err(|problem| {
                HubError::Scheduler {
                    file: source.name(SCHEDULER),
                    problem,
                }
            })?;
        let (unet, metadata) = load_unet(source, device)?;
        let first_stage = if index.has_vqvae {
            let first_stage = FirstStage::load_from(source, VQVAE, device)?;
            check_hash(&first_stage, &metadata)?;
            Some(first_stage)
        } else {
            None
        };
        check_channels(first_stage.as_ref(), &unet)?;
        Ok(Self {
            first_stage,
            unet,
            scheduler,
            metadata,
        })
    }

    /// Writes a folder that diffusers reads with `DiffusionPipeline.from_pretrained`. A model that stands there
    /// is replaced once the new one is whole. The VQ-VAE's hash is recorded with the U-Net.
    ///
    /// # Errors
    /// If the networks do not fit each other, if diffusers has no word for the scheduler, if the folder cannot be
    /// written, or if something that is not a model stands there.
    pub fn save(&self, folder: &Path, weights_type: WeightsType) -> Result<(), HubError> {
        check_channels(self.first_stage.as_ref(), &self.unet)?;
        let mut metadata = self.metadata.clone();
        let hash = |first_stage: &FirstStage| hash_as_stored(&first_stage.vqvae, weights_type);
        metadata.vqvae_hash = self.first_stage.as_ref().map(hash);
        let scheduler = self
            .scheduler
            .to_json()
            .map_err(|problem| HubError::Scheduler {
                file: folder.join(SCHEDULER).display().to_string(),
                problem,
            })?;
        let index = ModelIndex {
            has_vqvae: self.first_stage.is_some(),
            is_ddpm: matches!(self.scheduler.sampler, Sampler::Ddpm { .. }),
        };

        let files = NewFolder::begin(folder, INDEX)?;
        files.write(INDEX, &index.to_json())?;
        files.write(SCHEDULER, &scheduler)?;
        files.write(&format!("{UNET}{CONFIG}"), &self.unet.config().to_json())?;
        let weights = format!("{UNET}{WEIGHTS}");
        files.write_weights(&weights, &self.unet, weights_type, &metadata)?;
        if let Some(first_stage) = &self.first_stage {
            first_stage.write_to(&files, VQVAE, weights_type)?;
        }
        files.place()
    }
}

fn load_unet(source: &ModelSource, device: &Device) -> Result<(UNet2d, Metadata), HubError> {
    let config = format!("{UNET}{CONFIG}");
    let weights = format!("{UNET}{WEIGHTS}");
    let file = source.name(&config);
    let unet = UNet2dConfig::from_json(&source.text(&config)?)
        .and_then(|config| config.init(device, 0))
        .map_err(|problem| HubError::Config { file, problem })?;
    let file = source.name(&weights);
    let bytes = source.bytes(&weights)?;
    let metadata = Metadata::from_weights(&bytes, &file)?;
    let unet = load_weights_from_bytes(unet, &bytes)
        .map_err(|problem| HubError::Weights { file, problem })?;
    Ok((unet, metadata))
}

/// The U-Net's output must be of the shape of its input, which is that of the latents.
fn check_channels(first_stage: Option<&FirstStage>, unet: &UNet2d) -> Result<(), HubError> {
    let (takes, gives) = (unet.config().in_channels, unet.config().out_channels);
    if takes != gives {
        return Err(HubError::Prediction { takes, gives });
    }
    match first_stage.map(|first_stage| first_stage.vqvae.config().latent_dim()) {
        Some(latents) if latents != takes => Err(HubError::Channels { latents, takes }),
        _ => Ok(()),
    }
}

fn check_hash(first_stage: &FirstStage, metadata: &Metadata) -> Result<(), HubError> {
    let Some(expected) = &metadata.vqvae_hash else {
        return Ok(());
    };
    let found = first_stage.hash();
    if *expected == found {
        Ok(())
    } else {
        Err(HubError::OtherVqVae {
            expected: expected.clone(),
            found,
        })
    }
}
