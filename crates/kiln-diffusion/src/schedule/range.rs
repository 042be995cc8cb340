//! Refusals of settings that are out of range.

use crate::DiffusionError;

/// Refuses two ends for which `holds` is false; `valid` says what would be valid.
pub(super) fn require_ends(
    [start_key, end_key]: [&'static str; 2],
    [start, end]: [f64; 2],
    holds: bool,
    valid: &'static str,
) -> Result<(), DiffusionError> {
    if holds {
        return Ok(());
    }
    Err(DiffusionError::Ends {
        start_key,
        start,
        end_key,
        end,
        valid,
    })
}

/// Refuses a temperature or an exponent so extreme that curves no longer differ.
pub(super) fn require_number(key: &'static str, value: f64) -> Result<(), DiffusionError> {
    if (0.01..=100.0).contains(&value) {
        return Ok(());
    }
    let valid = "give a number from 0.01 to 100";
    Err(DiffusionError::Number { key, value, valid })
}
