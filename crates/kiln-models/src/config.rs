//! What the two configs share: reading and writing diffusers' `config.json`, and checks of sizes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ConfigError;

/// The diffusers version whose behaviour is followed; written into every `config.json`.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// More channels than any such network has; keeps a damaged config from asking for all memory.
const MAX_CHANNELS: usize = 16_384;
/// More halvings than any image survives.
const MAX_LEVELS: usize = 12;
/// More layers per level than any such network has.
const MAX_LAYERS: usize = 64;
/// More rows than any codebook or class table here has.
const MAX_ROWS: usize = 1 << 22;

/// Reads a config of the diffusers class `class`. Keys that begin with `_` are diffusers' own
/// bookkeeping (`_diffusers_version`, `_name_or_path`) and are passed over.
pub(crate) fn from_json<C>(text: &str, class: &'static str) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Serialize + Default,
{
    let keys: Map<String, Value> = serde_json::from_str(text)
        .map_err(|problem| ConfigError::NotAnObject(problem.to_string()))?;
    if let Some(found) = keys.get("_class_name").and_then(Value::as_str)
        && found != class
    {
        return Err(ConfigError::OtherClass {
            found: found.to_owned(),
            expected: class,
        });
    }
    let keys: Map<String, Value> = keys
        .into_iter()
        .filter(|(key, _)| !key.starts_with('_'))
        .collect();

    // Every key has a default, so each can be read on its own: serde does not name the key that it
    // stumbles over, and this does.
    let valid = to_map(&C::default());
    for (key, value) in &keys {
        if !valid.contains_key(key) {
            return Err(ConfigError::UnknownKey {
                key: key.clone(),
                value: value.to_string(),
                valid: valid.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        }
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if let Err(problem) = serde_json::from_value::<C>(Value::Object(alone)) {
            return Err(invalid(key, value, problem));
        }
    }
    serde_json::from_value(Value::Object(keys))
        .map_err(|problem| ConfigError::NotAnObject(problem.to_string()))
}

/// Writes a config as diffusers does, so that `from_pretrained` reads it.
pub(crate) fn to_json<C: Serialize>(config: &C, class: &str) -> String {
    let mut keys = Map::from_iter([
        ("_class_name".to_owned(), class.into()),
        ("_diffusers_version".to_owned(), DIFFUSERS_VERSION.into()),
    ]);
    for (key, value) in to_map(config) {
        // TOML's word for null, see `or_none`.
        let value = if value == "none" { Value::Null } else { value };
        keys.insert(key, value);
    }
    format!("{:#}\n", Value::Object(keys))
}

fn to_map<C: Serialize>(config: &C) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        // A struct of numbers, words and lists is always a JSON object.
        _ => Map::new(),
    }
}

pub(crate) fn invalid(key: &str, value: impl Serialize, problem: impl ToString) -> ConfigError {
    ConfigError::Invalid {
        key: key.to_owned(),
        value: serde_json::to_string(&value).unwrap_or_default(),
        problem: problem.to_string(),
    }
}

/// `Ok` if `holds`, else the error that names `key`, its `value` and the `problem`.
pub(crate) fn require(
    holds: bool,
    key: &str,
    value: impl Serialize,
    problem: &str,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(invalid(key, value, problem))
    }
}

/// Refuses no channels and absurdly many.
pub(crate) fn require_channels(key: &str, channels: usize) -> Result<(), ConfigError> {
    let problem = format!("it must be from 1 to {MAX_CHANNELS}");
    require(
        (1..=MAX_CHANNELS).contains(&channels),
        key,
        channels,
        &problem,
    )
}

/// Refuses an empty table and an absurdly long one.
pub(crate) fn require_rows(key: &str, rows: usize) -> Result<(), ConfigError> {
    let problem = format!("it must be from 1 to {MAX_ROWS}");
    require((1..=MAX_ROWS).contains(&rows), key, rows, &problem)
}

/// Checks the levels of an encoder and decoder: their number, widths, depth and group norms.
pub(crate) fn require_levels(
    block_out_channels: &[usize],
    down_blocks: usize,
    up_blocks: usize,
    layers_per_block: usize,
    norm_num_groups: usize,
) -> Result<(), ConfigError> {
    let levels = block_out_channels.len();
    require(
        (1..=MAX_LEVELS).contains(&levels),
        "block_out_channels",
        block_out_channels,
        &format!("it must list from 1 to {MAX_LEVELS} levels"),
    )?;
    for (key, blocks) in [
        ("down_block_types", down_blocks),
        ("up_block_types", up_blocks),
    ] {
        let problem = format!("its length must be that of `block_out_channels`, which is {levels}");
        require(blocks == levels, key, blocks, &problem)?;
    }
    for &channels in block_out_channels {
        require_channels("block_out_channels", channels)?;
        require(
            norm_num_groups > 0 && channels.is_multiple_of(norm_num_groups),
            "norm_num_groups",
            norm_num_groups,
            &format!("it must divide the {channels} channels of a level of `block_out_channels`"),
        )?;
    }
    require(
        (1..=MAX_LAYERS).contains(&layers_per_block),
        "layers_per_block",
        layers_per_block,
        &format!("it must be from 1 to {MAX_LAYERS}"),
    )
}

/// A side of the image must survive every halving, or skips and decoded images do not fit.
pub(crate) fn require_halving(key: &str, side: usize, levels: usize) -> Result<(), ConfigError> {
    let factor = 1usize << levels.saturating_sub(1);
    let problem =
        format!("it must be a positive multiple of {factor}, to be halved between {levels} levels");
    require(side > 0 && side.is_multiple_of(factor), key, side, &problem)
}

/// serde for an option whose null means something other than its default.
///
/// JSON has null for it. TOML has not, and leaving the key out would mean the default, so there it
/// is the word "none"; both are read everywhere.
pub(crate) mod or_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OrNone<T> {
        Value(T),
        Word(None_),
        Null(()),
    }

    #[derive(Deserialize)]
    enum None_ {
        #[serde(rename = "none")]
        None,
    }

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        match OrNone::deserialize(deserializer)? {
            OrNone::Value(value) => Ok(Some(value)),
            OrNone::Word(None_::None) | OrNone::Null(()) => Ok(None),
        }
    }
}
