//! The tables of the first stage: together they are one, or none.

use kiln_models::{AutoencoderConfig, AutoencoderKlConfig, VqVaeConfig};

use super::experiment_error::{ExperimentError, require};
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

/// Refuses a `sample_size` among the `overrides` of an experiment's `table` that is not the images'. One that a file has
/// is replaced by the images', so that `--set data.size` is enough.
pub(super) fn check_sample_size(
    table: &toml::Table,
    overrides: &[String],
) -> Result<(), ExperimentError> {
    let number = |name: &str, key: &str| table.get(name)?.get(key)?.as_integer();
    for name in ["vqvae", "autoencoder_kl"] {
        let key = format!("{name}.sample_size");
        let is_set = |text: &String| text.split('=').next().is_some_and(|set| set.trim() == key);
        if let (Some(given), Some(size)) = (number(name, "sample_size"), number("data", "size"))
            && overrides.iter().any(is_set)
        {
            require(given == size, key, given, || {
                format!(
                    "the images are {size}x{size} (data.size), so it must be {size}, or left out"
                )
            })?;
        }
    }
    Ok(())
}

impl FirstStageTables {
    /// The first stage, with the weight of its bottleneck's term; `None` in pixel space.
    ///
    /// # Errors
    /// [`ExperimentError::HalfAFirstStage`] and [`ExperimentError::Exclusive`].
    pub(super) fn into_config(self) -> Result<Option<FirstStageConfig>, ExperimentError> {
        let half = |there, missing| Err(ExperimentError::HalfAFirstStage { there, missing });
        let network = match (self.vqvae, self.autoencoder_kl) {
            (Some(vqvae), None) => AutoencoderConfig::Vq(vqvae),
            (None, Some(config)) => AutoencoderConfig::Kl(config),
            (Some(_), Some(_)) => {
                return Err(ExperimentError::Exclusive {
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
            AutoencoderConfig::Vq(vqvae) if !vqvae.quantizer.has_commitment() => {}
            AutoencoderConfig::Vq(_) => {
                stage_1.commitment.get_or_insert(COMMITMENT);
            }
            AutoencoderConfig::Kl(_) if self.codebook.is_some() => {
                return Err(ExperimentError::Exclusive {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;

    const FLOWERS: &str = include_str!("../../../../configs/flowers-vq.toml");
    const FLOWERS_KL: &str = include_str!("../../../../configs/flowers.toml");

    fn parse(text: &str, overrides: &[&str]) -> Result<Experiment, ExperimentError> {
        let overrides: Vec<_> = overrides.iter().map(|&text| text.to_owned()).collect();
        Experiment::parse(text, "my.toml", &overrides)
    }

    /// `text` without one of its tables.
    fn without(text: &str, table: &str) -> String {
        let mut tables: toml::Table = toml::from_str(text).unwrap();
        tables.remove(table).unwrap();
        tables.to_string()
    }

    #[test]
    fn each_kind_is_written_with_the_weight_of_its_own_term() {
        for (text, own, others) in [
            (
                FLOWERS.replace("commitment = 0.25", ""),
                "\ncommitment = 0.25\n",
                ["\nkl = ", "autoencoder_kl"],
            ),
            (
                FLOWERS_KL.replace("kl = 1e-2", ""),
                "\nkl = 0.000001\n",
                ["\ncommitment = ", "[codebook]"],
            ),
        ] {
            let written = parse(&text, &[]).unwrap().to_toml().unwrap();
            assert!(written.contains(own), "{written}");
            for other in others {
                assert!(!written.contains(other), "{written}");
            }
            let again = parse(&written, &[]).unwrap().to_toml().unwrap();
            assert_eq!(again, written);
        }
    }

    #[test]
    fn the_size_of_the_images_is_filled_in() {
        let experiment = parse(FLOWERS_KL, &["data.size=32", "unet.sample_size=8"]).unwrap();
        assert_eq!(experiment.sample_shape(), [4, 8, 8]);
        assert_eq!(experiment.first_stage.unwrap().network.sample_size(), 32);
    }

    #[test]
    fn tables_that_make_no_first_stage_are_named() {
        let with_both = FLOWERS_KL.to_owned() + &FLOWERS[FLOWERS.find("[vqvae]").unwrap()..];
        let with_both = with_both.split("[codebook]").next().unwrap();
        let with_codebook = FLOWERS_KL.to_owned() + "[codebook]\ndecay = 0.9\n";
        for (text, words) in [
            (
                with_both.to_owned(),
                "both [vqvae] and [autoencoder_kl], but a first stage is one of them",
            ),
            (with_codebook, "both [autoencoder_kl] and [codebook], but"),
            (
                without(FLOWERS_KL, "stage_1"),
                "has [autoencoder_kl] but no [stage_1]",
            ),
            (without(FLOWERS, "stage_1"), "has [vqvae] but no [stage_1]"),
            (
                without(FLOWERS_KL, "autoencoder_kl"),
                "has [stage_1] but no [vqvae] or [autoencoder_kl]",
            ),
            (
                without(&without(FLOWERS, "vqvae"), "stage_1"),
                "has [codebook] but no [vqvae]",
            ),
        ] {
            let sentence = parse(&text, &[]).unwrap_err().to_string();
            assert!(sentence.contains(words), "{sentence}");
        }
    }

    #[test]
    fn keys_of_the_other_kind_and_bad_values_are_named_with_the_table() {
        for (text, set, words) in [
            (FLOWERS, "stage_1.kl=1e-6", "only [autoencoder_kl] has"),
            (FLOWERS_KL, "stage_1.commitment=0.25", "only [vqvae] has"),
            (FLOWERS_KL, "stage_1.kl=-1.0", "`stage_1.kl = -1`"),
            (FLOWERS_KL, "stage_1.kl=nan", "`stage_1.kl = NaN`"),
            (
                FLOWERS_KL,
                "autoencoder_kl.in_channels=1",
                "`autoencoder_kl.in_channels = 1`",
            ),
            (
                FLOWERS_KL,
                "autoencoder_kl.norm_num_groups=7",
                "[autoencoder_kl] of the config",
            ),
            (FLOWERS_KL, "data.size=66", "[autoencoder_kl] halves"),
            (
                FLOWERS_KL,
                "autoencoder_kl.latent_channels=3",
                "the first stage's latents have 3 channels",
            ),
            (
                FLOWERS_KL,
                "autoencoder_kl.num_vq_embeddings=8",
                "did you mean `vqvae.num_vq_embeddings`",
            ),
            (FLOWERS_KL, "codebook.decay=0.9", "no codes"),
        ] {
            let sentence = parse(text, &[set]).unwrap_err().to_string();
            assert!(sentence.contains(words), "{set}: {sentence}");
        }
    }
}
