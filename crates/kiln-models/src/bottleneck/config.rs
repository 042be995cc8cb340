//! The choice of a quantizer: kiln's own key `quantizer` in the config of a `VQModel`.

use std::fmt;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::Bottleneck;
use super::fsq::Fsq;
use super::residual::ResidualQuantizer;
use super::sim_vq::SimVq;
use super::vq::VectorQuantizer;
use crate::ConfigError;
use crate::config::{MAX_ROWS, require};

/// What replaces latents by codes: `"vq"`, `{ fsq = { levels = [8, 5, 5, 5] } }`, `"simvq"` or
/// `{ residual = { tables = 4 } }`. Only kiln loads a model with another one than `"vq"`, which files do not write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum QuantizerConfig {
    /// The nearest of `num_vq_embeddings` vectors: diffusers' quantizer.
    #[default]
    Vq,
    /// Finite scalar quantization: the latents have a channel for each of the `levels`.
    Fsq {
        /// How many values each channel can have: at least 3.
        levels: Vec<usize>,
    },
    /// The nearest of `num_vq_embeddings` random vectors, which one matrix moves together.
    #[serde(rename = "simvq")]
    SimVq,
    /// The nearest of `num_vq_embeddings` vectors in each of several tables, one for what the other left over.
    Residual {
        /// How many: at least 2.
        tables: usize,
    },
}

impl fmt::Display for QuantizerConfig {
    /// `simvq`, `fsq, levels 8, 5, 5, 5`, `residual, 4 tables`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())?;
        match self {
            Self::Vq | Self::SimVq => Ok(()),
            Self::Fsq { levels } => {
                let levels: Vec<String> = levels.iter().map(usize::to_string).collect();
                write!(formatter, ", levels {}", levels.join(", "))
            }
            Self::Residual { tables } => write!(formatter, ", {tables} tables"),
        }
    }
}

/// Fewer levels of a channel do not work: with two, nearly all latents are rounded to one of them.
const LEAST_LEVELS: usize = 3;
/// More tables than any such model has.
const MAX_TABLES: usize = 64;

impl QuantizerConfig {
    /// Whether this is diffusers' quantizer.
    pub fn is_vq(&self) -> bool {
        *self == Self::Vq
    }

    /// The word for it in a config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vq => "vq",
            Self::Fsq { .. } => "fsq",
            Self::SimVq => "simvq",
            Self::Residual { .. } => "residual",
        }
    }

    /// The quantizer with the usual settings, if it has settings: an example of how to write it.
    pub fn example(name: &str) -> Option<Self> {
        match name {
            "fsq" => Some(Self::Fsq {
                levels: vec![8, 5, 5, 5],
            }),
            "residual" => Some(Self::Residual { tables: 4 }),
            _ => None,
        }
    }

    /// The number of codes and of channels that the quantizer itself determines.
    pub fn own_codes_and_channels(&self) -> Option<(usize, usize)> {
        match self {
            Self::Fsq { levels } => {
                let product = levels
                    .iter()
                    .try_fold(1usize, |all, &own| all.checked_mul(own));
                Some((product.unwrap_or(usize::MAX), levels.len()))
            }
            Self::Vq | Self::SimVq | Self::Residual { .. } => None,
        }
    }

    /// How many vectors each position has to choose from in each of its choices, if they are learnt and so must all be
    /// of use.
    pub fn learnt_vectors(&self, num_vq_embeddings: usize) -> Option<usize> {
        match self {
            Self::Fsq { .. } => None,
            Self::Vq | Self::SimVq | Self::Residual { .. } => Some(num_vq_embeddings),
        }
    }

    /// The keys of [`CodebookConfig`](super::vq::CodebookConfig) that have a meaning.
    pub fn codebook_keys(&self) -> &'static [&'static str] {
        match self {
            Self::Vq => &[
                "update",
                "decay",
                "restart_below",
                "kmeans_start",
                "l2_normalize",
                "gradient",
            ],
            Self::Residual { .. } => &[
                "update",
                "decay",
                "restart_below",
                "kmeans_start",
                "gradient",
            ],
            Self::SimVq => &["gradient"],
            Self::Fsq { .. } => &[],
        }
    }

    /// Whether its latents are drawn to their codes by a commitment term.
    pub fn has_commitment(&self) -> bool {
        match self {
            Self::Vq | Self::SimVq | Self::Residual { .. } => true,
            Self::Fsq { .. } => false,
        }
    }

    /// How many maps of the latents' size a training step keeps, beyond those of a plain codebook: for each table what it
    /// leaves over and the differences of both terms.
    pub(crate) fn further_maps(&self) -> usize {
        match self {
            Self::Vq | Self::Fsq { .. } | Self::SimVq => 0,
            Self::Residual { tables } => 3 * tables,
        }
    }

    /// Checks that the other options of a `VQModel` fit.
    pub(crate) fn validate(
        &self,
        num_vq_embeddings: usize,
        vq_embed_dim: Option<usize>,
    ) -> Result<(), ConfigError> {
        match self {
            Self::Vq | Self::SimVq => Ok(()),
            Self::Fsq { levels } => {
                let (codes, channels) = self.own_codes_and_channels().unwrap_or_default();
                require(
                    !levels.is_empty()
                        && levels.iter().all(|&own| own >= LEAST_LEVELS)
                        && codes <= MAX_ROWS,
                    "quantizer",
                    self,
                    &format!(
                        "fsq has one or more levels of at least {LEAST_LEVELS}, and at most {MAX_ROWS} codes, their product"
                    ),
                )?;
                let problem = format!(
                    "`quantizer` has a channel for each of its {channels} levels, so it must be {channels} or left out"
                );
                let fits = vq_embed_dim.is_none_or(|own| own == channels);
                require(fits, "vq_embed_dim", vq_embed_dim, &problem)?;
                let problem =
                    format!("the levels of `quantizer` make {codes} codes, so it must be {codes}");
                let fits = num_vq_embeddings == codes;
                require(fits, "num_vq_embeddings", num_vq_embeddings, &problem)
            }
            Self::Residual { tables } => {
                let fits = (2..=MAX_TABLES).contains(tables);
                let problem =
                    format!("residual has from 2 to {MAX_TABLES} tables; one table is \"vq\"");
                require(fits, "quantizer", self, &problem)?;
                require(
                    num_vq_embeddings.saturating_mul(*tables) <= MAX_ROWS,
                    "num_vq_embeddings",
                    num_vq_embeddings,
                    &format!("{tables} tables may have {MAX_ROWS} codes together"),
                )
            }
        }
    }

    /// A new quantizer with random weights.
    pub(crate) fn init(&self, codes: usize, dimension: usize, device: &Device) -> Bottleneck {
        match self {
            Self::Vq => Bottleneck::Vq(VectorQuantizer::new(codes, dimension, device)),
            Self::Fsq { levels } => Bottleneck::Fsq(Fsq::new(levels)),
            Self::SimVq => Bottleneck::SimVq(SimVq::new(codes, dimension, device)),
            Self::Residual { tables } => {
                let quantizer = ResidualQuantizer::new(*tables, codes, dimension, device);
                Bottleneck::Residual(quantizer)
            }
        }
    }
}
