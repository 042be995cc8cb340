//! The first stage of an experiment: its network and how it is trained.

use kiln_diffusion::Distance;
use kiln_models::VqVaeConfig;
use kiln_models::bottleneck::vq::CodebookConfig;
use serde::{Deserialize, Serialize};

use super::adversarial::AdversarialConfig;
use super::config_error::ConfigError;
use super::equivariance::EquivarianceConfig;
use super::perceptual::PerceptualConfig;
use super::training::TrainingConfig;

/// The first stage of an experiment: the tables `[vqvae]`, `[codebook]` and `[stage_1]`.
#[derive(Debug, Clone)]
pub struct FirstStageConfig {
    /// The network, with the keys of diffusers' `VQModel`.
    pub vqvae: VqVaeConfig,
    /// The training of its codebook.
    pub codebook: CodebookConfig,
    /// The training of the network.
    pub stage_1: Stage1Config,
}

impl FirstStageConfig {
    /// Refuses a codebook with more codes than the `images` of this side have latent vectors: some codes could never be
    /// used.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub(crate) fn check_codes(&self, images: usize, side: usize) -> Result<(), ConfigError> {
        let VqVaeConfig {
            num_vq_embeddings,
            quantizer,
            ..
        } = &self.vqvae;
        let Some(codes) = quantizer.learnt_vectors(*num_vq_embeddings) else {
            return Ok(());
        };
        let of_an_image = (side / self.vqvae.downscale_factor()).pow(2);
        let vectors = images.saturating_mul(of_an_image);
        if codes <= vectors {
            return Ok(());
        }
        Err(ConfigError::Value {
            key: "vqvae.num_vq_embeddings".to_owned(),
            value: codes.to_string(),
            valid: format!(
                "the {images} training images have {vectors} latent vectors, so use fewer codes than that"
            ),
        })
    }
}

/// The training of the VQ-VAE: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage1Config {
    /// Distance between an image and its reconstruction.
    #[serde(default)]
    pub reconstruction: Distance,
    /// Weight of the commitment term, beta in van den Oord et al. 2017, equation 3.
    #[serde(default = "default_commitment")]
    pub commitment: f64,
    /// The distance of features. If absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualConfig>,
    /// A discriminator that judges reconstructions. If absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<AdversarialConfig>,
    /// Steps with scaled and rotated latents. If absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equivariance: Option<EquivarianceConfig>,
    /// The optimizer and its schedule.
    pub training: TrainingConfig,
}

fn default_commitment() -> f64 {
    0.25
}
