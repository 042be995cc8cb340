//! Reads an experiment's TOML with its overrides, and writes it again.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::experiment_error::ExperimentError;
use super::refusal::{Described, Place, explain};
use super::{distillation, first_stage_tables, quantizer};

/// The overrides that a run recorded in its `config`. The keys of another version's experiment are no obstacle.
///
/// # Errors
/// If the file cannot be read or is not TOML.
pub(crate) fn overrides_in(config: &Path) -> Result<Vec<String>, ExperimentError> {
    #[derive(Deserialize)]
    struct Recorded {
        #[serde(default)]
        overrides: Vec<String>,
    }
    let text = read(config)?;
    let recorded: Recorded = toml::from_str(&text)
        .map_err(|error| no_toml(&error, &text, &config.display().to_string()))?;
    Ok(recorded.overrides)
}

/// The key that an override sets.
pub fn key_of_override(text: &str) -> &str {
    text.split('=').next().unwrap_or_default().trim()
}

/// Whether a file's `text` is an experiment of a classifier. What is neither counts as one of models.
pub fn describes_classifier(text: &str) -> bool {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let has = |key: &&str| table.contains_key(*key);
    let is_of_models = ["unet", "stage_2"].iter().any(has);
    !is_of_models && ["training", "classifier", "augmentation"].iter().any(has)
}

/// Adds `new` overrides to the `known` ones. The last override of a key counts.
pub(super) fn remember(known: &mut Vec<String>, new: &[String]) {
    for new in new {
        known.retain(|known| key_of_override(known) != key_of_override(new));
        known.push(new.clone());
    }
}

/// The text of the file at `path`.
pub(super) fn read(path: &Path) -> Result<String, ExperimentError> {
    kiln_data::read_text(path).map_err(|source| ExperimentError::Read {
        path: path.to_owned(),
        source,
    })
}

/// An experiment as TOML.
pub(super) fn written(experiment: &impl Serialize) -> Result<String, ExperimentError> {
    toml::to_string_pretty(experiment).map_err(|error| ExperimentError::Parse {
        origin: "config.toml".into(),
        message: error.to_string(),
    })
}

/// The TOML in `text` with `overrides` applied; `origin` names it in errors. Keys that it has not are those of `base`.
pub(super) fn parse_table<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    overrides: &[String],
    described: Described,
    base: &toml::Table,
) -> Result<T, ExperimentError> {
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| no_toml(&error, text, origin))?;
    fill_in(&mut table, base);
    for text in overrides {
        override_key(&mut table, text)?;
    }
    quantizer::adapt(&mut table, text, origin, overrides)?;
    distillation::complete(&mut table);
    first_stage_tables::check_sample_size(&table, overrides)?;
    let value = toml::Value::Table(table.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (place, message) = explain(&error, &table, described);
        // The command line has priority.
        let set = overrides
            .iter()
            .rev()
            .find(|text| place.is_along(&Place::of_override(text)));
        let origin = match (set, place.line_in(text)) {
            (Some(_), _) => "--set".to_owned(),
            (None, Some(line)) => format!("{origin}, line {line}"),
            (None, None) => origin.to_owned(),
        };
        ExperimentError::Parse { origin, message }
    })
}

/// Adds the keys of `base` that `table` has not, in its tables, too.
fn fill_in(table: &mut toml::Table, base: &toml::Table) {
    for (key, value) in base {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(own)), toml::Value::Table(base)) => fill_in(own, base),
            (Some(_), _) => (),
            (None, value) => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Applies one `table.key=value` to the parsed file.
fn override_key(table: &mut toml::Table, text: &str) -> Result<(), ExperimentError> {
    let refuse = |message: &str| ExperimentError::Parse {
        origin: format!("--set {text}"),
        message: message.into(),
    };
    let (path, value) = text
        .split_once('=')
        .ok_or_else(|| refuse("write it as table.key=value"))?;
    // A value that is not TOML is a bare word: `--set stage_2.loss=mae`.
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys
        .pop()
        .filter(|key| !key.is_empty())
        .ok_or_else(|| refuse("the key is empty"))?;
    let mut table = table;
    for (depth, key) in keys.iter().enumerate() {
        table = table
            .entry(*key)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| {
                let (whole, within) = (keys[..=depth].join("."), &keys[depth + 1..]);
                let inner = [within, &[last]].concat().join(".");
                refuse(&format!(
                    "`{key}` is not a table here, so it has no keys of its own: set all of it, as in --set '{whole}={{{inner}={value}}}'"
                ))
            })?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// The error for text that is not TOML. TOML's own errors draw a picture over several lines; the line's number and a
/// sentence are enough.
fn no_toml(error: &toml::de::Error, text: &str, origin: &str) -> ExperimentError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!(", line {}", before.matches('\n').count() + 1));
    ExperimentError::Parse {
        origin: format!("{origin}{}", line.unwrap_or_default()),
        message: error
            .message()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    }
}
