//! The stochasticity that several samplers have.

use crate::DiffusionError;

/// # Errors
/// An `eta` outside [0, 1].
pub(super) fn check(eta: f64) -> Result<(), DiffusionError> {
    if !(0.0..=1.0).contains(&eta) {
        return Err(DiffusionError::Eta(eta));
    }
    Ok(())
}
