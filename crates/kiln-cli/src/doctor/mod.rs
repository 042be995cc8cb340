//! Finds what is wrong with a model or a run, and what to do about it.
//!
//! A [`Patient`] is a model with information about its training: the metrics and latents of its run, or images to
//! encode. [`examine`] runs the checks below. Each finds something, finds nothing, or says what it needs.
//!
//! | check | looks at |
//! | --- | --- |
//! | `weights` | whether the model can be read, and every weight is a number |
//! | `files` | whether all files that kiln wrote exist and are unchanged |
//! | `drawing` | whether all outputs of the networks are finite while an image is drawn |
//! | `terminal SNR` | whether the schedule ends in pure noise, which sampling starts from |
//! | `latent scale` | whether scaled latents have a standard deviation of one, like the noise |
//! | `codebook` | how many codes are in use |
//! | `posterior` | whether the latents of a KL autoencoder still tell images apart |
//! | `discriminator` | whether stage 1's discriminator neither wins outright nor spoils the reconstructions |
//! | `moving average` | whether the averaged weights have forgotten the initial ones |
//! | `loss by timestep` | whether the U-Net has learnt more than the latents' mean and spread |
//! | `student` | whether a distilled model draws as it was distilled to, and near its teacher |
//! | `validation gap` | whether the validation loss falls together with the training loss |

mod codebook;
mod discriminator;
mod drawing;
mod files;
mod finding;
mod latent_scale;
mod loss_by_timestep;
mod moving_average;
mod patient;
mod posterior;
mod student;
mod terminal_snr;
mod validation_gap;
mod weights;

pub use finding::{Finding, Severity};
pub use patient::Patient;

use serde::Serialize;

use finding::Findings;

/// One check's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// The check's name.
    pub check: &'static str,
    /// The findings; empty, or notes, if nothing is wrong.
    pub findings: Vec<Finding>,
    /// Why the check could not be made, if it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_examined: Option<String>,
}

type Check = fn(&Patient) -> Findings;

const CHECKS: [(&str, Check); 12] = [
    ("weights", weights::check),
    ("files", files::check),
    ("drawing", drawing::check),
    ("terminal SNR", terminal_snr::check),
    ("latent scale", latent_scale::check),
    ("codebook", codebook::check),
    ("posterior", posterior::check),
    ("discriminator", discriminator::check),
    ("moving average", moving_average::check),
    ("loss by timestep", loss_by_timestep::check),
    ("student", student::check),
    ("validation gap", validation_gap::check),
];

/// Runs every check.
pub fn examine(patient: &Patient) -> Vec<Examination> {
    let examined = CHECKS.iter().map(|&(check, examine)| {
        let (findings, not_examined) = match examine(patient) {
            Ok(findings) => (findings, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Examination {
            check,
            findings,
            not_examined,
        }
    });
    examined.collect()
}

#[cfg(test)]
mod tests;
