//! The layout of an experiment's file: one table beside the other, including the ones of the first stage.

use kiln_data::DataConfig;
use kiln_diffusion::ScheduleConfig;
use kiln_models::{AutoencoderKlConfig, UNet2dConfig, VqVaeConfig};
use serde::{Deserialize, Serialize};

use super::first_stage::Stage1Config;
use super::quantizer::CodebookTable;
use super::sampling::SamplingConfig;
use super::second_stage::Stage2Config;

/// The keys and tables of the file, in its order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    #[serde(default)]
    pub(super) seed: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) overrides: Vec<String>,
    pub(super) data: DataConfig,
    pub(super) vqvae: Option<VqVaeConfig>,
    pub(super) autoencoder_kl: Option<AutoencoderKlConfig>,
    /// If absent: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) codebook: Option<CodebookTable>,
    pub(super) stage_1: Option<Stage1Config>,
    pub(super) unet: UNet2dConfig,
    pub(super) schedule: ScheduleConfig,
    pub(super) stage_2: Stage2Config,
    #[serde(default)]
    pub(super) sampling: SamplingConfig,
}
