//! A VQ-VAE in a folder of its own, and what tells one from another.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use half::f16;
use kiln_models::{VqVae, VqVaeConfig, WeightsType, load_weights_from_bytes};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::folder::NewFolder;
use crate::{HubError, Metadata, ModelSource};

/// A network's options in its folder.
pub(crate) const CONFIG: &str = "config.json";
/// A network's weights in its folder.
pub(crate) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A trained VQ-VAE: what stage 1 gives and stage 2 needs.
#[derive(Clone, Debug)]
pub struct FirstStage {
    /// The network.
    pub vqvae: VqVae,
    /// How it was trained, and facts about its data.
    pub metadata: Metadata,
}

impl FirstStage {
    /// Reads a VQ-VAE's folder (`config.json` and weights), or the VQ-VAE of a whole model.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or not supported, or says that there is no VQ-VAE at all.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self, HubError> {
        source.require_folder()?;
        // The folder itself, or its place in a model.
        for folder in ["", "vqvae/"] {
            if source.has(&format!("{folder}{CONFIG}")) {
                return Self::load_from(source, folder, device);
            }
        }
        Err(HubError::NotAModel {
            place: source.place(),
            expected: "VQ-VAE",
            file: CONFIG,
        })
    }

    /// Writes a folder that diffusers reads with `VQModel.from_pretrained`. A model that stands there is
    /// replaced once the new one is whole.
    ///
    /// # Errors
    /// If it cannot be written, or something that is not a model stands there.
    pub fn save(&self, folder: &Path, weights_type: WeightsType) -> Result<(), HubError> {
        let files = NewFolder::begin(folder, CONFIG)?;
        self.write_to(&files, "", weights_type)?;
        files.place()
    }

    /// What tells this VQ-VAE from any other: see [`vqvae_hash`].
    pub fn hash(&self) -> String {
        vqvae_hash(&self.vqvae)
    }

    pub(crate) fn load_from(
        source: &ModelSource,
        folder: &str,
        device: &Device,
    ) -> Result<Self, HubError> {
        let config = format!("{folder}{CONFIG}");
        let weights = format!("{folder}{WEIGHTS}");
        let file = source.name(&config);
        let vqvae = VqVaeConfig::from_json(&source.text(&config)?)
            .and_then(|config| config.init(device, 0))
            .map_err(|problem| HubError::Config { file, problem })?;
        let file = source.name(&weights);
        let bytes = source.bytes(&weights)?;
        let metadata = Metadata::from_weights(&bytes, &file)?;
        let vqvae = load_weights_from_bytes(vqvae, &bytes)
            .map_err(|problem| HubError::Weights { file, problem })?;
        Ok(Self { vqvae, metadata })
    }

    pub(crate) fn write_to(
        &self,
        files: &NewFolder,
        folder: &str,
        weights_type: WeightsType,
    ) -> Result<(), HubError> {
        files.write(&format!("{folder}{CONFIG}"), &self.vqvae.config().to_json())?;
        let weights = format!("{folder}{WEIGHTS}");
        files.write_weights(&weights, &self.vqvae, weights_type, &self.metadata)
    }
}

/// SHA-256, in hexadecimal, over everything that decides a VQ-VAE's latents and images: its options and its
/// weights. A cache of latents and a U-Net belong to the VQ-VAE of this hash.
///
/// `scaling_factor` is left out: it is measured on the latents and does not change them.
pub fn vqvae_hash(vqvae: &VqVae) -> String {
    hash_as_stored(vqvae, WeightsType::F32)
}

/// The hash that a VQ-VAE has once it was saved as `weights_type` and loaded again.
pub(crate) fn hash_as_stored(vqvae: &VqVae, weights_type: WeightsType) -> String {
    let config = vqvae.config();
    // What the weights and their shapes do not tell.
    let options = json!([
        config.down_block_types,
        config.up_block_types,
        config.act_fn,
        config.norm_num_groups,
        config.norm_type,
    ]);
    let mut hasher = WeightsHasher {
        digest: Sha256::new_with_prefix(options.to_string()),
        weights_type,
    };
    vqvae.visit(&mut hasher);
    let digest = hasher.digest.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct WeightsHasher {
    digest: Sha256,
    weights_type: WeightsType,
}

impl ModuleVisitor for WeightsHasher {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let shape = parameter.lazy_shape();
        self.digest.update(format!("{:?}", shape.as_slice()));
        let stored = |value: f32| match self.weights_type {
            WeightsType::F32 => value,
            WeightsType::F16 => f16::from_f32(value).to_f32(),
        };
        let values = parameter.val().into_data();
        let bytes: Vec<u8> = values
            .iter::<f32>()
            .flat_map(|value| stored(value).to_le_bytes())
            .collect();
        self.digest.update(bytes);
    }
}
