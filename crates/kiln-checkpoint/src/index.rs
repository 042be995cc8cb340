//! `model_index.json`: which parts a model has.

use serde_json::{Map, Value, json};

use crate::layout::INDEX;
use crate::{CheckpointError, ModelSource};

/// The release of diffusers whose layout we follow.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// The parts of a model. All models have a U-Net and a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIndex {
    /// The name and the class of the autoencoder, if there is one: diffusion in latent space.
    pub autoencoder: Option<(&'static str, &'static str)>,
    /// The class of the scheduler. Its own file names it too.
    pub scheduler: String,
}

impl ModelIndex {
    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        let pipeline = match self.scheduler.as_str() {
            _ if self.autoencoder.is_some() => "LDMPipeline",
            "DDPMScheduler" => "DDPMPipeline",
            // In pixel space Python uses DDIM for the others, because it has no pipeline that scales a sample for them.
            _ => "DDIMPipeline",
        };
        let mut index = json!({
            "_class_name": pipeline,
            "_diffusers_version": DIFFUSERS_VERSION,
            "scheduler": ["diffusers", self.scheduler],
            "unet": ["diffusers", "UNet2DModel"],
        });
        if let Some((part, class)) = self.autoencoder {
            index[part] = json!(["diffusers", class]);
        }
        format!("{index:#}\n")
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is missing or damaged, or names a pipeline or a part that cannot be read here.
    pub fn read(source: &ModelSource) -> Result<Self, CheckpointError> {
        source.require_folder()?;
        if !source.has(INDEX) {
            return Err(CheckpointError::NotAModel {
                place: source.place(),
                expected: "diffusion model",
                file: INDEX,
            });
        }
        let file = source.name(INDEX);
        let index: Map<String, Value> =
            serde_json::from_str(&source.text(INDEX)?).map_err(|problem| {
                CheckpointError::Damaged {
                    file: file.clone(),
                    problem: problem.to_string(),
                }
            })?;
        let pipeline = index.get("_class_name").and_then(Value::as_str);
        let is_latent = match pipeline {
            Some("LDMPipeline") => true,
            Some("DDIMPipeline" | "DDPMPipeline") => false,
            other => {
                return Err(CheckpointError::UnknownPipeline {
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
        let unknown = |part, expected| CheckpointError::UnknownPart {
            file: file.clone(),
            part,
            found: index.get(part).unwrap_or(&Value::Null).to_string(),
            expected,
        };
        let autoencoder = if is_latent {
            // LDMPipeline's name for it, and the name in all other pipelines.
            let part = if index.contains_key("vqvae") {
                "vqvae"
            } else {
                "vae"
            };
            let known = ["VQModel", "AutoencoderKL"];
            let class = known.into_iter().find(|known| class(part) == Some(known));
            let class = class.ok_or_else(|| unknown(part, "VQModel or AutoencoderKL"))?;
            Some((part, class))
        } else {
            None
        };
        if class("unet") != Some("UNet2DModel") {
            return Err(unknown("unet", "UNet2DModel"));
        }
        let scheduler = class("scheduler").filter(|class| class.ends_with("Scheduler"));
        match scheduler {
            Some(scheduler) => Ok(Self {
                autoencoder,
                scheduler: scheduler.to_owned(),
            }),
            None => Err(unknown("scheduler", "a scheduler of diffusers")),
        }
    }
}
