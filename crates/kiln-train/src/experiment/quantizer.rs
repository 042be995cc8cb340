//! The keys of `[vqvae]`, `[codebook]` and `[stage_1]` whose meaning depends on `vqvae.quantizer`.
//!
//! A key that means nothing for the quantizer is refused where it stands beside it. But `--set vqvae.quantizer=..` is
//! enough to choose another one for a file that was written for the usual codebook: then the file's keys that mean nothing
//! any more are left out, and a warning names them.

use kiln_models::bottleneck::QuantizerConfig;
use kiln_models::bottleneck::vq::CodebookConfig;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use super::experiment_error::ExperimentError;
use super::refusal::Place;

/// Fits the other keys of `table`, which is `text` with the `overrides`, to its quantizer.
///
/// # Errors
/// Names the first key that does not apply.
pub(super) fn adapt(
    table: &mut Table,
    text: &str,
    origin: &str,
    overrides: &[String],
) -> Result<(), ExperimentError> {
    require_settings(table, text, origin, overrides)?;
    let Some(quantizer) = quantizer_of(table) else {
        return Ok(());
    };
    let is_set = |place: &[&str]| {
        let place = Place::of_keys(place);
        (overrides.iter()).any(|text| place.is_along(&Place::of_override(text)))
    };
    let is_chosen_anew = is_set(&["vqvae", "quantizer"]);
    let mut left_out = Vec::new();

    for [name, key] in idle_keys(&quantizer) {
        let path = [name, key];
        let its_table = table.get_mut(name).and_then(Value::as_table_mut);
        let Some(its_table) = its_table.filter(|table| table.contains_key(key)) else {
            continue;
        };
        if !is_chosen_anew || is_set(&path) {
            return Err(refusal(&path, &quantizer, text, origin, is_set(&path)));
        }
        its_table.remove(key);
        left_out.push(path.join("."));
    }

    if let (Some((codes, _)), Some(Value::Table(vqvae))) =
        (quantizer.own_codes_and_channels(), table.get_mut("vqvae"))
        && let Ok(codes) = i64::try_from(codes)
    {
        let key = "num_vq_embeddings";
        let own = Value::Integer(codes);
        match vqvae.get(key) {
            None => drop(vqvae.insert(key.to_owned(), own)),
            Some(named) if *named != own && is_chosen_anew && !is_set(&["vqvae", key]) => {
                left_out.push(format!("vqvae.{key} = {named} (it is {codes} now)"));
                vqvae.insert(key.to_owned(), own);
            }
            // If it differs, the network's own check says so.
            Some(_) => {}
        }
    }

    if !left_out.is_empty() {
        tracing::warn!(
            "vqvae.quantizer is {} now, so keys of {origin} that mean nothing for it are left out: {}",
            quantizer.name(),
            left_out.join(", ")
        );
    }
    Ok(())
}

/// The quantizer of a config; `None` if there is none, or one that serde will refuse.
fn quantizer_of(table: &Table) -> Option<QuantizerConfig> {
    let value = table.get("vqvae")?.get("quantizer")?.clone();
    value.try_into().ok()
}

/// Refuses the name of a quantizer alone if it needs settings.
fn require_settings(
    table: &Table,
    text: &str,
    origin: &str,
    overrides: &[String],
) -> Result<(), ExperimentError> {
    let path = ["vqvae", "quantizer"];
    let value = table.get(path[0]).and_then(|vqvae| vqvae.get(path[1]));
    let name = value.and_then(Value::as_str).unwrap_or_default();
    let Some(Ok(example)) = QuantizerConfig::example(name).map(Value::try_from) else {
        return Ok(());
    };
    let place = Place::of_keys(&path);
    let is_set = (overrides.iter()).any(|text| place.is_along(&Place::of_override(text)));
    Err(ExperimentError::Parse {
        origin: origin_of(&place, text, origin, is_set),
        message: format!(
            "`vqvae.quantizer = \"{name}\"` lacks its settings: write it as in `vqvae.quantizer = {example}`"
        ),
    })
}

/// The words for where a key stands.
fn origin_of(place: &Place, text: &str, origin: &str, is_set: bool) -> String {
    match (is_set, place.line_in(text)) {
        (true, _) => "--set".to_owned(),
        (false, Some(line)) => format!("{origin}, line {line}"),
        (false, None) => origin.to_owned(),
    }
}

fn keys_of(quantizer: &QuantizerConfig) -> &'static [&'static str] {
    quantizer.codebook_keys()
}

/// The keys, each with its table, that have a meaning for the usual codebook but none for this quantizer.
fn idle_keys(quantizer: &QuantizerConfig) -> Vec<[&'static str; 2]> {
    let valid = keys_of(quantizer);
    let mut idle: Vec<_> = (keys_of(&QuantizerConfig::Vq).iter())
        .filter(|key| !valid.contains(key))
        .map(|key| ["codebook", key])
        .collect();
    if !quantizer.has_commitment() {
        idle.push(["stage_1", "commitment"]);
    }
    idle
}

/// The refusal of a key at `path` that means nothing.
fn refusal(
    path: &[&str],
    quantizer: &QuantizerConfig,
    text: &str,
    origin: &str,
    is_set: bool,
) -> ExperimentError {
    let place = Place::of_keys(path);
    let (key, name) = (path.join("."), quantizer.name());
    let others = match (path, keys_of(quantizer)) {
        (["codebook", _], keys @ [_, ..]) => format!("which has only {}", keys.join(", ")),
        _ => "which has nothing to set there".to_owned(),
    };
    ExperimentError::Parse {
        origin: origin_of(&place, text, origin, is_set),
        message: format!("`{key}` means nothing for the quantizer {name}, {others}: leave it out"),
    }
}

/// The table `[codebook]`, which is written with the keys of its quantizer.
#[derive(Debug)]
pub(super) struct CodebookTable {
    config: CodebookConfig,
    keys: &'static [&'static str],
}

impl CodebookTable {
    /// `None` if the quantizer has no keys there.
    pub(super) fn of(config: CodebookConfig, quantizer: &QuantizerConfig) -> Option<Self> {
        let keys = keys_of(quantizer);
        (!keys.is_empty()).then_some(Self { config, keys })
    }

    pub(super) fn into_config(self) -> CodebookConfig {
        self.config
    }
}

impl<'de> Deserialize<'de> for CodebookTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = CodebookConfig::deserialize(deserializer)?;
        let keys = keys_of(&QuantizerConfig::Vq);
        Ok(Self { config, keys })
    }
}

impl Serialize for CodebookTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.keys == keys_of(&QuantizerConfig::Vq) {
            return self.config.serialize(serializer);
        }
        let mut table = Table::try_from(&self.config).map_err(S::Error::custom)?;
        table.retain(|key, _| self.keys.contains(&key));
        table.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use kiln_models::bottleneck::CodeGradient;

    use super::*;
    use crate::experiment::Experiment;

    const FLOWERS: &str = include_str!("../../../../configs/flowers-vq.toml");

    fn parse(text: &str, overrides: &[&str]) -> Result<Experiment, ExperimentError> {
        let overrides: Vec<_> = overrides.iter().map(|&text| text.to_owned()).collect();
        Experiment::parse(text, "flowers.toml", &overrides)
    }

    fn refused(text: &str, overrides: &[&str]) -> String {
        parse(text, overrides).unwrap_err().to_string()
    }

    /// The file with other lines in `[vqvae]` and its own `[codebook]`.
    fn file(vqvae: &str, codebook: &str) -> String {
        let (before, rest) = FLOWERS.split_once("num_vq_embeddings = 2048").unwrap();
        let (between, rest) = rest.split_once("[codebook]").unwrap();
        let (_, after) = rest.split_once("[stage_1]").unwrap();
        format!("{before}{vqvae} {between}{codebook}\n[stage_1]{after}")
    }

    #[test]
    fn one_override_is_enough_for_a_file_with_a_codebook() {
        for (set, codes, table) in [
            ("vqvae.quantizer=simvq", 2048, None),
            ("vqvae.quantizer={residual={tables=4}}", 2048, Some("decay")),
            ("vqvae.quantizer.residual.tables=4", 2048, Some("decay")),
            ("vqvae.quantizer={fsq={levels=[8,5,5,5]}}", 1000, None),
            ("vqvae.quantizer=vq", 2048, Some("decay")),
        ] {
            let experiment = parse(FLOWERS, &[set]).unwrap();
            let first_stage = experiment.first_stage.as_ref().unwrap();
            let vqvae = first_stage.network.vq().unwrap();
            assert_eq!(vqvae.num_vq_embeddings, codes, "{set}");
            // A run's own config can be read again, also with the same override.
            let written = experiment.to_toml().unwrap();
            for overrides in [&[][..], &[set]] {
                let again = parse(&written, overrides).unwrap();
                assert_eq!(again.to_toml().unwrap(), written, "{set}");
            }
            let read: Table = toml::from_str(&written).unwrap();
            let codebook = read.get("codebook").and_then(Value::as_table);
            let has = |key: &str| codebook.is_some_and(|codebook| codebook.contains_key(key));
            assert_eq!(has("decay"), table.is_some(), "{set}");
        }
    }

    #[test]
    fn the_usual_codebook_is_written_as_before() {
        let written = parse(FLOWERS, &[]).unwrap().to_toml().unwrap();
        assert!(!written.contains("quantizer") && !written.contains("gradient"));
        let rotation = parse(FLOWERS, &["codebook.gradient=rotation"]).unwrap();
        assert!(
            rotation
                .to_toml()
                .unwrap()
                .contains("gradient = \"rotation\"")
        );
        let simvq = parse(
            FLOWERS,
            &["vqvae.quantizer=simvq", "codebook.gradient=rotation"],
        );
        let codebook = simvq.unwrap().first_stage.unwrap().codebook;
        assert_eq!(codebook.gradient, CodeGradient::Rotation);
    }

    #[test]
    fn keys_that_mean_nothing_are_refused_where_they_stand() {
        let simvq = ["vqvae.quantizer=simvq", "codebook.update=ema"];
        let sentence = refused(FLOWERS, &simvq);
        assert!(
            sentence.starts_with("--set: `codebook.update` means nothing"),
            "{sentence}"
        );
        assert!(sentence.contains("has only gradient"), "{sentence}");
        let fsq = [
            "vqvae.quantizer={fsq={levels=[8,5,5,5]}}",
            "codebook.kmeans_start=true",
        ];
        assert!(refused(FLOWERS, &fsq).contains("`codebook.kmeans_start` means nothing"));
        let committed = [fsq[0], "stage_1.commitment=0.1"];
        assert!(refused(FLOWERS, &committed).contains("`stage_1.commitment` means nothing"));
        let residual = [
            "vqvae.quantizer={residual={tables=2}}",
            "codebook.l2_normalize=true",
        ];
        assert!(refused(FLOWERS, &residual).contains("`codebook.l2_normalize`"));

        let text = file(
            "num_vq_embeddings = 64\nquantizer = \"simvq\"",
            "[codebook]\ndecay = 0.9",
        );
        let sentence = refused(&text, &[]);
        let line = text.lines().position(|line| line.contains("decay = 0.9"));
        let place = format!("flowers.toml, line {}", line.unwrap() + 1);
        assert!(sentence.starts_with(&place), "{sentence}");
        // A key that there never is has its own sentence.
        let text = text.replace("decay = 0.9", "decoy = 0.9");
        assert!(refused(&text, &[]).contains("did you mean"));
    }

    #[test]
    fn a_file_of_an_own_quantizer_needs_no_number_of_codes() {
        let quantizer = "quantizer = { fsq = { levels = [7, 5, 5, 5] } }";
        let own = |vqvae: &str| file(vqvae, "").replace("commitment = 0.25", "");
        let experiment = parse(&own(quantizer), &[]).unwrap();
        let network = experiment.first_stage.unwrap().network;
        assert_eq!(network.vq().unwrap().num_vq_embeddings, 875);
        let both = own(&format!("num_vq_embeddings = 2048\n{quantizer}"));
        let sentence = refused(&both, &[]);
        assert!(
            sentence.contains("`num_vq_embeddings` = 2048"),
            "{sentence}"
        );
        assert!(sentence.contains("it must be 875"), "{sentence}");
    }

    #[test]
    fn what_cannot_be_adapted_is_said_with_the_key() {
        for (sets, words) in [
            (
                &["vqvae.quantizer={fsq={levels=[8,8,8,6,5]}}"][..],
                "`vq_embed_dim` = 4",
            ),
            (
                &[
                    "vqvae.quantizer={fsq={levels=[8,8,8,6,5]}}",
                    "vqvae.vq_embed_dim=5",
                ],
                "unet.in_channels = 4",
            ),
            (&["vqvae.quantizer=fsq"], "vqvae.quantizer = { fsq = "),
            (
                &["vqvae.quantizer=residual"],
                "vqvae.quantizer = { residual = ",
            ),
            (&["vqvae.quantizer=sim-vq"], "did you mean `simvq`"),
            (
                &["vqvae.quantizer={residual={}}"],
                "`vqvae.quantizer.residual.tables` is missing",
            ),
            (&["codebook.gradient=rotate"], "straight-through, rotation"),
        ] {
            let sentence = refused(FLOWERS, sets);
            assert!(sentence.contains(words), "{sets:?}: {sentence}");
        }
    }
}
