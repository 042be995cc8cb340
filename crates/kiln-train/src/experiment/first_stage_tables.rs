//! The tables of the first stage: together they are one, or none.

use kiln_models::{AutoencoderConfig, AutoencoderKlConfig, VqVaeConfig};

use super::config_error::ConfigError;
use super::first_stage::{FirstStageConfig, Stage1Config, table_of};
use super::quantizer::CodebookTable;

/// The usual weight of the commitment term (van den Oord et al. 2017).
const COMMITMENT: f64 = 0.25;
/// The usual weight of the KL term (Rombach et al. 2022, appendix G).
const KL: f64 = 1e-6;

/// The tables as they stand in a file.
#[derive(Default)]
pub(super) struct FirstStageTables {
    pub(super) vqvae: Option<VqVaeConfig>,
    pub(super) autoencoder_kl: Option<AutoencoderKlConfig>,
    pub(super) codebook: Option<CodebookTable>,
    pub(super) stage_1: Option<Stage1Config>,
}

impl FirstStageTables {
    /// The first stage, with the weight of its bottleneck's term; `None` in pixel space.
    ///
    /// # Errors
    /// [`ConfigError::HalfAFirstStage`] and [`ConfigError::Exclusive`].
    pub(super) fn into_config(self) -> Result<Option<FirstStageConfig>, ConfigError> {
        let half = |there, missing| Err(ConfigError::HalfAFirstStage { there, missing });
        let network = match (self.vqvae, self.autoencoder_kl) {
            (Some(vqvae), None) => AutoencoderConfig::Vq(vqvae),
            (None, Some(config)) => AutoencoderConfig::Kl(config),
            (Some(_), Some(_)) => {
                return Err(ConfigError::Exclusive {
                    one: "vqvae",
                    other: "autoencoder_kl",
                    why: "a first stage is one of them",
                });
            }
            (None, None) => {
                const NETWORK: &str = "[vqvae] or [autoencoder_kl]";
                return match (self.stage_1, self.codebook) {
                    (None, None) => Ok(None),
                    (Some(_), _) => half("stage_1", NETWORK),
                    (None, Some(_)) => half("codebook", "[vqvae]"),
                };
            }
        };
        let Some(mut stage_1) = self.stage_1 else {
            return half(table_of(&network), "[stage_1]");
        };
        match &network {
            AutoencoderConfig::Vq(_) => {
                stage_1.commitment.get_or_insert(COMMITMENT);
            }
            AutoencoderConfig::Kl(_) if self.codebook.is_some() => {
                return Err(ConfigError::Exclusive {
                    one: "autoencoder_kl",
                    other: "codebook",
                    why: "such an autoencoder has no codes",
                });
            }
            AutoencoderConfig::Kl(_) => {
                stage_1.kl.get_or_insert(KL);
            }
        }
        let codebook = self.codebook.map(CodebookTable::into_config);
        Ok(Some(FirstStageConfig {
            network,
            codebook: codebook.unwrap_or_default(),
            stage_1,
        }))
    }

    /// The tables of a first stage.
    pub(super) fn of(first_stage: Option<FirstStageConfig>) -> Self {
        let Some(FirstStageConfig {
            network,
            codebook,
            stage_1,
        }) = first_stage
        else {
            return Self::default();
        };
        let stage_1 = Some(stage_1);
        match network {
            AutoencoderConfig::Vq(vqvae) => Self {
                codebook: CodebookTable::of(codebook, &vqvae.quantizer),
                vqvae: Some(vqvae),
                stage_1,
                ..Self::default()
            },
            AutoencoderConfig::Kl(config) => Self {
                autoencoder_kl: Some(config),
                stage_1,
                ..Self::default()
            },
        }
    }
}
