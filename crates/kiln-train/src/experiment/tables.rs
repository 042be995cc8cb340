//! The layout of an experiment's file: one table beside the other, including the ones of the first stage.

use kiln_data::DataConfig;
use kiln_diffusion::ScheduleConfig;
use kiln_models::bottleneck::vq::CodebookConfig;
use kiln_models::{UNet2dConfig, VqVaeConfig};
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, Experiment, FirstStageConfig, SamplingConfig, Stage1Config, Stage2Config,
};

/// The keys and tables of the file, in its order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    #[serde(default)]
    seed: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<String>,
    data: DataConfig,
    vqvae: Option<VqVaeConfig>,
    /// If absent: the defaults.
    codebook: Option<CodebookConfig>,
    stage_1: Option<Stage1Config>,
    unet: UNet2dConfig,
    schedule: ScheduleConfig,
    stage_2: Stage2Config,
    #[serde(default)]
    sampling: SamplingConfig,
}

impl TryFrom<Tables> for Experiment {
    type Error = ConfigError;

    /// # Errors
    /// [`ConfigError::HalfAFirstStage`].
    fn try_from(tables: Tables) -> Result<Self, ConfigError> {
        let half = |there, missing| Err(ConfigError::HalfAFirstStage { there, missing });
        let first_stage = match (tables.vqvae, tables.codebook, tables.stage_1) {
            (Some(vqvae), codebook, Some(stage_1)) => Some(FirstStageConfig {
                vqvae,
                codebook: codebook.unwrap_or_default(),
                stage_1,
            }),
            (None, None, None) => None,
            (Some(_), _, None) => return half("vqvae", "stage_1"),
            (None, _, Some(_)) => return half("stage_1", "vqvae"),
            (None, Some(_), None) => return half("codebook", "vqvae"),
        };
        Ok(Self {
            seed: tables.seed,
            overrides: tables.overrides,
            data: tables.data,
            first_stage,
            unet: tables.unet,
            schedule: tables.schedule,
            stage_2: tables.stage_2,
            sampling: tables.sampling,
        })
    }
}

impl From<Experiment> for Tables {
    fn from(experiment: Experiment) -> Self {
        let (vqvae, codebook, stage_1) = match experiment.first_stage {
            Some(stage) => (Some(stage.vqvae), Some(stage.codebook), Some(stage.stage_1)),
            None => (None, None, None),
        };
        Self {
            seed: experiment.seed,
            overrides: experiment.overrides,
            data: experiment.data,
            vqvae,
            codebook,
            stage_1,
            unet: experiment.unet,
            schedule: experiment.schedule,
            stage_2: experiment.stage_2,
            sampling: experiment.sampling,
        }
    }
}
