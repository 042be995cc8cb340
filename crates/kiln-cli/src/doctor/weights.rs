//! Whether the model can be read, and every weight is a number.

use super::finding::Findings;
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    if patient.damage.is_empty() && patient.model.is_none() && patient.first_stage.is_none() {
        return Err("no network has been trained to its end yet".to_owned());
    }
    Ok(patient.damage.clone())
}
