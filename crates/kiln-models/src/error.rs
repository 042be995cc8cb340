//! What can be wrong with a model's config or its weights.

use std::path::PathBuf;

/// A `config.json` (or the same keys in an experiment's TOML) that does not describe a possible
/// model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("the model config is not a JSON object ({0}); give it a diffusers config.json")]
    NotAnObject(String),
    /// The config belongs to another class of model.
    #[error("the config is of a `{found}`, but a `{expected}` is needed here")]
    OtherClass {
        /// The `_class_name` of the config.
        found: String,
        /// The `_class_name` that this model has in diffusers.
        expected: &'static str,
    },
    /// A key that this model does not have.
    #[error(
        "the config's `{key}` = {value} is not an option of this model; the options are {valid}"
    )]
    UnknownKey {
        /// The key as written.
        key: String,
        /// Its value as JSON.
        value: String,
        /// The keys that exist.
        valid: String,
    },
    /// A value that is of the wrong type, not supported or impossible.
    #[error("the config's `{key}` = {value} is not possible: {problem}")]
    Invalid {
        /// The key as written.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What is wrong with it and what would be valid.
        problem: String,
    },
    /// Each option is possible, but together they make a network that is too large for any machine.
    #[error(
        "the config makes a network of {parameters} parameters, more than {most}; make it narrower or shallower"
    )]
    TooLarge {
        /// How many parameters it would have.
        parameters: usize,
        /// How many are allowed.
        most: usize,
    },
    /// The network does not fit into the free memory.
    #[error(
        "the network's {parameters} parameters need {needed:.0} MB of memory, and {free:.0} MB are free: end other programs, raise the limit of memory, or take a smaller network"
    )]
    Memory {
        /// How many parameters it would have.
        parameters: usize,
        /// Their size, in units of 10^6 bytes.
        needed: f64,
        /// The free memory.
        free: f64,
    },
}

/// A weights file that does not fit its model, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("cannot read the weights {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tensor's numbers cannot be read.
    #[error("cannot read the weights' `{key}`: {source}")]
    Tensor {
        /// The diffusers key.
        key: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written; an existing file is untouched.
    #[error("cannot write the weights {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are not a whole safetensors file.
    #[error("the weights are not a valid safetensors file ({0}); fetch or write them again")]
    Damaged(#[from] safetensors::SafeTensorError),
    /// Keys that the model has and the file lacks, or the other way round.
    #[error(
        "the weights belong to another model or config: {}",
        describe_keys(missing, unused)
    )]
    Keys {
        /// Parameters of the model that the file lacks, sorted.
        missing: Vec<String>,
        /// Tensors of the file that the model has no place for, sorted.
        unused: Vec<String>,
    },
    /// A tensor's shape differs from the parameter's.
    #[error(
        "the weights' `{key}` has shape {found:?}, but this model's config asks for {expected:?}"
    )]
    Shape {
        /// The diffusers key.
        key: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape of the parameter, in PyTorch's layout.
        expected: Vec<usize>,
    },
    /// A tensor's type is not one of the floats that are read here.
    #[error("the weights' `{key}` is of type {found}, but only F32, F16, BF16 and F64 are read")]
    Type {
        /// The diffusers key.
        key: String,
        /// The type in the file.
        found: String,
    },
    /// A value is NaN or infinite, or becomes so when it is written in half precision.
    #[error(
        "the weights' `{key}` holds a value that is NaN, infinite or too large for the file's type"
    )]
    NotFinite {
        /// The diffusers key.
        key: String,
    },
}

/// Errors name at most this many keys, and count the others.
const KEYS_NAMED: usize = 4;

fn describe_keys(missing: &[String], unused: &[String]) -> String {
    let list = |what: &str, keys: &[String]| {
        let named = keys.iter().take(KEYS_NAMED);
        // Escaped, because a terminal would obey control characters.
        let named = named.map(|key| format!("`{}`", key.escape_debug()));
        let mut text = format!("{what} {}", named.collect::<Vec<_>>().join(", "));
        if keys.len() > KEYS_NAMED {
            text.push_str(&format!(" and {} more", keys.len() - KEYS_NAMED));
        }
        text
    };
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(list("it lacks", missing));
    }
    if !unused.is_empty() {
        parts.push(list("it has unexpected", unused));
    }
    parts.join(" and ")
}
