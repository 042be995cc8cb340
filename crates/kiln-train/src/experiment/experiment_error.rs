//! The errors of an experiment's description: each is one sentence.

use std::path::PathBuf;

/// Why an experiment's description was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// The file could not be read.
    #[error("cannot read the config {path}: {source}")]
    Read {
        /// The config's path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The text is not TOML, or not this TOML.
    #[error("{origin}: {message}")]
    Parse {
        /// The file, or the override, that is wrong.
        origin: String,
        /// What is wrong, with the key.
        message: String,
    },
    /// A part of the first stage is missing.
    #[error(
        "the config has [{there}] but no {missing}: a first stage needs [vqvae] or [autoencoder_kl], and [stage_1], and a pixel-space experiment has none of these and no [codebook]"
    )]
    HalfAFirstStage {
        /// A table in the file.
        there: &'static str,
        /// The missing table, or tables, in brackets.
        missing: &'static str,
    },
    /// Two tables exclude each other.
    #[error(
        "the config has both [{one}] and [{other}], but {why}: take one out (a --set of a key adds its table)"
    )]
    Exclusive {
        /// A table in the file.
        one: &'static str,
        /// The other one.
        other: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// A key needs more memory than is free.
    #[error(
        "`{key} = {value}` in the config needs about {needed:.1} GB of memory, and {free:.1} GB are free: use a smaller one{}",
        if key.ends_with("batch_size") { " (accumulate makes up for it)" } else { "" }
    )]
    Memory {
        /// The key, with its table.
        key: String,
        /// The refused value.
        value: String,
        /// The required memory, in units of 10^9 bytes.
        needed: f64,
        /// The free memory, in the same unit.
        free: f64,
    },
    /// A key's value cannot work.
    #[error("`{key} = {value}` in the config cannot work: {valid}")]
    Value {
        /// The key, with its table.
        key: String,
        /// The refused value.
        value: String,
        /// What would be valid.
        valid: String,
    },
}

/// Adds the name of the table to an error.
pub(super) fn within<T, E: std::fmt::Display>(
    table: &str,
    result: Result<T, E>,
) -> Result<T, ExperimentError> {
    result.map_err(|error| ExperimentError::Parse {
        origin: format!("[{table}] of the config"),
        message: error.to_string(),
    })
}

pub(super) fn require(
    holds: bool,
    key: impl Into<String>,
    value: impl ToString,
    valid: impl FnOnce() -> String,
) -> Result<(), ExperimentError> {
    if holds {
        return Ok(());
    }
    let value = value.to_string();
    let value = match value.parse::<f64>() {
        // All 301 digits of 1e300 would hide the sentence.
        Ok(number) if value.len() > 20 => format!("{number:e}"),
        _ => value,
    };
    Err(ExperimentError::Value {
        key: key.into(),
        value,
        valid: valid(),
    })
}
