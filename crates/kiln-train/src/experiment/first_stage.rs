//! The first stage of an experiment: its network and how it is trained.

use kiln_diffusion::Distance;
use kiln_models::bottleneck::vq::CodebookConfig;
use kiln_models::{AutoencoderConfig, VqVaeConfig};
use serde::{Deserialize, Serialize};

use super::adversarial::AdversarialConfig;
use super::equivariance::EquivarianceConfig;
use super::experiment_error::ExperimentError;
use super::perceptual::PerceptualConfig;
use super::training::TrainingConfig;

/// The first stage of an experiment: the tables `[vqvae]` and `[codebook]`, or `[autoencoder_kl]`, and `[stage_1]`.
#[derive(Debug, Clone)]
pub struct FirstStageConfig {
    /// The network, with the keys of diffusers' `VQModel` or `AutoencoderKL`.
    pub network: AutoencoderConfig,
    /// The training of its codebook, if it has one.
    pub codebook: CodebookConfig,
    /// The training of the network.
    pub stage_1: Stage1Config,
}

impl FirstStageConfig {
    /// The least side to which equivariance brings images of `side` pixels.
    pub(crate) fn smallest_side(&self, side: usize) -> usize {
        let factor = self.network.downscale_factor();
        let scaled = |table: &EquivarianceConfig| {
            EquivarianceConfig::scaled(side / factor, table.smallest_scale) * factor
        };
        self.stage_1.equivariance.as_ref().map_or(side, scaled)
    }

    /// The table of the network.
    pub(crate) fn table(&self) -> &'static str {
        table_of(&self.network)
    }

    /// Refuses a codebook with more codes than the `images` of this side have latent vectors: some codes could never be
    /// used.
    ///
    /// # Errors
    /// [`ExperimentError::Value`].
    pub(crate) fn check_codes(&self, images: usize, side: usize) -> Result<(), ExperimentError> {
        let codes = self.network.vq().and_then(|vqvae| {
            let VqVaeConfig {
                num_vq_embeddings,
                quantizer,
                ..
            } = vqvae;
            quantizer.learnt_vectors(*num_vq_embeddings)
        });
        let Some(codes) = codes else {
            return Ok(());
        };
        let of_an_image = (side / self.network.downscale_factor()).pow(2);
        let vectors = images.saturating_mul(of_an_image);
        if codes <= vectors {
            return Ok(());
        }
        Err(ExperimentError::Value {
            key: "vqvae.num_vq_embeddings".to_owned(),
            value: codes.to_string(),
            valid: format!(
                "the {images} training images have {vectors} latent vectors, so use fewer codes than that"
            ),
        })
    }
}

/// The table of a network of this kind.
pub(super) fn table_of(network: &AutoencoderConfig) -> &'static str {
    match network {
        AutoencoderConfig::Vq(_) => "vqvae",
        AutoencoderConfig::Kl(_) => "autoencoder_kl",
    }
}

/// The training of the autoencoder: its objective and its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage1Config {
    /// Distance between an image and its reconstruction.
    #[serde(default)]
    pub reconstruction: Distance,
    /// For `[vqvae]`: the weight of the commitment term, beta in van den Oord et al. 2017, equation 3. If absent in the
    /// file: 0.25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<f64>,
    /// For `[autoencoder_kl]`: the weight of the KL term beside a reconstruction that is summed over an image, as in
    /// latent diffusion. Because the reconstruction is a mean here, the objective is distance + `kl` * divergence of an
    /// image / values of an image. If absent in the file: 1e-6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
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

impl Stage1Config {
    /// The perceptual term, if it counts.
    pub(crate) fn perceptual(&self) -> Option<&PerceptualConfig> {
        (self.perceptual.as_ref()).filter(|table| !table.weight.is_zero())
    }

    /// The discriminator's terms, if one of them counts.
    pub(crate) fn adversarial(&self) -> Option<&AdversarialConfig> {
        (self.adversarial.as_ref())
            .filter(|table| !(table.weight.is_zero() && table.feature_matching.is_zero()))
    }
}
