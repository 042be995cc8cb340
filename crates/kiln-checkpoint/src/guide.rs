//! A worse version of a model's U-Net, in the model's folder `guide/`: it guides the model.
//!
//! ```text
//! guide/
//!   config.json, diffusion_pytorch_model.safetensors   UNet2DModel
//!   guidance.json                                      how much it guides by default
//! ```
//!
//! diffusers ignores the folder: its pipelines draw from the same model without guidance.

use burn::tensor::Device;
use kiln_diffusion::Guidance;
use kiln_models::{UNet2d, WeightsType};

use crate::folder::NewFolder;
use crate::layout::{CONFIG, GUIDANCE, GUIDE};
use crate::unet::{load_unet, write_unet};
use crate::{CheckpointError, Metadata, ModelSource};

/// A worse version of a model's U-Net, a smaller one or one that was trained less, and how far to move the model's
/// output away from the guide's (autoguidance, Karras et al. 2024): see [`Guidance::guide_by`].
#[derive(Clone, Debug)]
pub struct Guide {
    /// The worse network, for the same latents, the same prediction and the same classes.
    pub unet: UNet2d,
    /// How it was trained.
    pub metadata: Metadata,
    /// How much it guides by default.
    pub guidance: Guidance,
}

impl Guide {
    /// The default scale of a guide.
    pub const USUAL_SCALE: f64 = 2.0;

    /// Whether a model has a guide.
    pub(crate) fn is_in(source: &ModelSource) -> bool {
        source.has(&format!("{GUIDE}{CONFIG}"))
    }

    pub(crate) fn load_from(
        source: &ModelSource,
        device: &Device,
    ) -> Result<Self, CheckpointError> {
        let file = format!("{GUIDE}{GUIDANCE}");
        let guidance = serde_json::from_str(&source.text(&file)?);
        let guidance = guidance.map_err(|problem| CheckpointError::Damaged {
            file: source.name(&file),
            problem: problem.to_string(),
        })?;
        let (unet, metadata) = load_unet(source, GUIDE, device)?;
        Ok(Self {
            unet,
            metadata,
            guidance,
        })
    }

    pub(crate) fn write_to(
        &self,
        files: &NewFolder,
        weights_type: WeightsType,
        vqvae_hash: Option<String>,
    ) -> Result<(), CheckpointError> {
        let metadata = Metadata {
            vqvae_hash,
            ..self.metadata.clone()
        };
        let guidance = serde_json::json!(self.guidance);
        files.write(&format!("{GUIDE}{GUIDANCE}"), &format!("{guidance:#}\n"))?;
        write_unet(files, GUIDE, &self.unet, weights_type, &metadata)
    }

    /// Checks that both networks denoise the same latents, and that the guide has the model's classes.
    pub(crate) fn check(&self, unet: &UNet2d) -> Result<(), CheckpointError> {
        let (guide, model) = (self.unet.config(), unet.config());
        let differs = |what| Err(CheckpointError::Guide { what });
        if (guide.in_channels, guide.out_channels) != (model.in_channels, model.out_channels) {
            return differs("numbers of channels");
        }
        if guide.sample_size != model.sample_size {
            return differs("sizes of their samples");
        }
        if guide.num_class_embeds != model.num_class_embeds {
            return differs("classes");
        }
        Ok(())
    }
}
