//! `model_index.json`: which parts a model has.

use serde_json::{Map, Value, json};

use crate::{HubError, ModelSource};

/// The file by which a model's folder is known.
pub(crate) const INDEX: &str = "model_index.json";

/// The release of diffusers whose layout this is.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// What a model is made of. All have a U-Net and a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelIndex {
    /// Whether there is a VQ-VAE: diffusion in latent space.
    pub(crate) has_vqvae: bool,
    /// Whether the scheduler is a `DDPMScheduler` instead of a `DDIMScheduler`.
    pub(crate) is_ddpm: bool,
}

impl ModelIndex {
    /// The text of the file.
    pub(crate) fn to_json(self) -> String {
        let scheduler = if self.is_ddpm {
            "DDPMScheduler"
        } else {
            "DDIMScheduler"
        };
        let mut index = json!({
            "_class_name": match self {
                Self { has_vqvae: true, .. } => "LDMPipeline",
                Self { is_ddpm: true, .. } => "DDPMPipeline",
                Self { is_ddpm: false, .. } => "DDIMPipeline",
            },
            "_diffusers_version": DIFFUSERS_VERSION,
            "scheduler": ["diffusers", scheduler],
            "unet": ["diffusers", "UNet2DModel"],
        });
        if self.has_vqvae {
            index["vqvae"] = json!(["diffusers", "VQModel"]);
        }
        format!("{index:#}\n")
    }

    /// Reads the file, and refuses parts that cannot be read here.
    pub(crate) fn read(source: &ModelSource) -> Result<Self, HubError> {
        source.require_folder()?;
        if !source.has(INDEX) {
            return Err(HubError::NotAModel {
                place: source.place(),
                expected: "diffusion model",
                file: INDEX,
            });
        }
        let file = source.name(INDEX);
        let index: Map<String, Value> =
            serde_json::from_str(&source.text(INDEX)?).map_err(|problem| HubError::Damaged {
                file: file.clone(),
                problem: problem.to_string(),
            })?;
        let pipeline = index.get("_class_name").and_then(Value::as_str);
        let has_vqvae = match pipeline {
            Some("LDMPipeline") => true,
            Some("DDIMPipeline" | "DDPMPipeline") => false,
            other => {
                return Err(HubError::UnknownPipeline {
                    file,
                    class: other.unwrap_or("none").to_owned(),
                });
            }
        };
        let class = |part| {
            index
                .get(part)
                .and_then(|part| part.get(1))
                .and_then(Value::as_str)
        };
        let unknown = |part, expected| HubError::UnknownPart {
            file: file.clone(),
            part,
            found: index.get(part).unwrap_or(&Value::Null).to_string(),
            expected,
        };
        if has_vqvae && class("vqvae") != Some("VQModel") {
            return Err(unknown("vqvae", "VQModel"));
        }
        if class("unet") != Some("UNet2DModel") {
            return Err(unknown("unet", "UNet2DModel"));
        }
        let is_ddpm = match class("scheduler") {
            Some("DDIMScheduler") => false,
            Some("DDPMScheduler") => true,
            _ => return Err(unknown("scheduler", "DDIMScheduler or DDPMScheduler")),
        };
        Ok(Self { has_vqvae, is_ddpm })
    }
}
