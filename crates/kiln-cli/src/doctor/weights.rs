//! Whether the model can be read, and every weight is a number.

use super::finding::Findings;
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    let has_network =
        patient.model.is_some() || patient.first_stage.is_some() || patient.is_classifier;
    if patient.damage.is_empty() && !has_network {
        return Err("no network has been trained to its end yet".to_owned());
    }
    Ok(patient.damage.clone())
}
