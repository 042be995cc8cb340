//! An autoencoder in its own folder, and its hash.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use half::f16;
use kiln_data::hexadecimal;
use kiln_kernels::for_one_use;
use kiln_models::{Autoencoder, AutoencoderConfig, VqVaeConfig, WeightsType};
use sha2::{Digest, Sha256};

use crate::folder::NewFolder;
use crate::layout::{CONFIG, INDEX, WEIGHTS};
use crate::weights::load_weights;
use crate::{CheckpointError, Metadata, ModelSource};

/// A trained autoencoder: the result of stage 1 and the input of stage 2. It is of diffusers' class `VQModel` or
/// `AutoencoderKL`.
#[derive(Clone, Debug)]
pub struct FirstStage {
    /// The network.
    pub network: Autoencoder,
    /// How it was trained, and facts about its data.
    pub metadata: Metadata,
}

impl FirstStage {
    /// Reads an autoencoder's folder (`config.json` and weights), or the autoencoder of a whole model.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or not supported, or reports that there is no autoencoder.
    pub fn load(source: &ModelSource, device: &Device) -> Result<Self, CheckpointError> {
        source.require_folder()?;
        // The folder itself, or its place in a model.
        for folder in ["", "vqvae/", "vae/"] {
            if source.has(&format!("{folder}{CONFIG}")) {
                return Self::load_from(source, folder, device);
            }
        }
        if source.has(INDEX) {
            return Err(CheckpointError::NoFirstStage(source.place()));
        }
        Err(CheckpointError::NotAModel {
            place: source.place(),
            expected: "VQ-VAE or other autoencoder",
            file: CONFIG,
        })
    }

    /// Writes a folder that diffusers reads with `from_pretrained` of the network's class. An existing model is
    /// replaced when the new one is complete, if kiln wrote it.
    ///
    /// # Errors
    /// If it cannot be written, or something else is there: see [`check_place`](crate::check_place).
    pub fn save(&self, folder: &Path, weights_type: WeightsType) -> Result<(), CheckpointError> {
        let files = NewFolder::begin(folder)?;
        self.write_to(&files, "", weights_type)?;
        files.place()
    }

    /// The scaling factor, or `None` for the default of autoencoders that kiln trained, which lasts until stage 2 measures
    /// the latents. Both kinds have the same default.
    pub fn measured_scaling_factor(&self) -> Option<f64> {
        let factor = self.network.config().scaling_factor();
        let is_ours = self.metadata.training.contains_key("steps");
        let is_default = factor == VqVaeConfig::default().scaling_factor;
        (!(is_ours && is_default)).then_some(factor)
    }

    /// The identity of this autoencoder: see [`vqvae_hash`].
    pub fn hash(&self) -> String {
        vqvae_hash(&self.network)
    }

    pub(crate) fn load_from(
        source: &ModelSource,
        folder: &str,
        device: &Device,
    ) -> Result<Self, CheckpointError> {
        let config = format!("{folder}{CONFIG}");
        let file = source.name(&config);
        let network = AutoencoderConfig::from_json(&source.text(&config)?)
            .and_then(|config| config.init(device, 0))
            .map_err(|problem| CheckpointError::Config { file, problem })?;
        let (network, metadata) = load_weights(source, folder, network)?;
        let side = network.config().sample_size();
        metadata.check_border([side, side], &source.name(&format!("{folder}{WEIGHTS}")))?;
        Ok(Self { network, metadata })
    }

    pub(crate) fn write_to(
        &self,
        files: &NewFolder,
        folder: &str,
        weights_type: WeightsType,
    ) -> Result<(), CheckpointError> {
        files.write(
            &format!("{folder}{CONFIG}"),
            &self.network.config().to_json(),
        )?;
        let weights = format!("{folder}{WEIGHTS}");
        files.write_weights(&weights, &self.network, weights_type, &self.metadata)
    }
}

/// SHA-256, in hexadecimal, over everything that determines an autoencoder's latents and images: its options and its
/// weights. A cache of latents and a U-Net belong to the autoencoder of this hash.
///
/// `scaling_factor` is left out: it is measured on the latents and does not change them.
pub fn vqvae_hash(network: &Autoencoder) -> String {
    hash_as_stored(network, WeightsType::F32)
}

/// The SHA-256, in hexadecimal, of all weights of a network and their shapes.
pub fn weights_hash(network: &impl Module) -> String {
    hash_after(Sha256::new(), network, WeightsType::F32)
}

/// The hash that an autoencoder will have after it is saved as `weights_type` and loaded again.
pub(crate) fn hash_as_stored(network: &Autoencoder, weights_type: WeightsType) -> String {
    let options = network.config().untold_by_weights();
    let digest = Sha256::new_with_prefix(options.to_string());
    hash_after(digest, network, weights_type)
}

/// The hash of what is in `digest` already and of the weights of `network`, stored as `weights_type`.
fn hash_after(digest: Sha256, network: &impl Module, weights_type: WeightsType) -> String {
    let mut hasher = WeightsHasher {
        digest,
        weights_type,
    };
    network.visit(&mut hasher);
    hexadecimal(&hasher.digest.finalize())
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
        let values = for_one_use(parameter.val()).into_data();
        let bytes: Vec<u8> = values
            .iter::<f32>()
            .flat_map(|value| stored(value).to_le_bytes())
            .collect();
        self.digest.update(bytes);
    }
}
