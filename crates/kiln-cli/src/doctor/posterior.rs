//! Whether the posterior of a KL autoencoder has collapsed: with a large weight of the KL term, latents become the same
//! noise for all images.

use kiln_models::bottleneck::Bottleneck;

use super::finding::{Finding, Findings};
use super::patient::{NO_LATENTS, Patient};

/// Latents that tell less than this about their image, in nats each, get a warning. Usual ones tell several nats.
const LITTLE: f64 = 0.1;

pub(super) fn check(patient: &Patient) -> Findings {
    let first_stage = patient
        .first_stage()
        .ok_or("the model has no autoencoder")?;
    if !matches!(first_stage.network.bottleneck, Bottleneck::Kl(_)) {
        return Err("the model's autoencoder has codes".to_owned());
    }
    let latents = patient.latents.as_ref().ok_or(NO_LATENTS)?;
    let divergence = (patient.stage_1())
        .and_then(|stage| stage.newest("kl/valid").or(stage.newest("kl/train")))
        .ok_or("it needs stage 1's metrics.csv in a run folder")?;
    let [_, channels, height, width] = latents.dims();
    let each = divergence / (channels * height * width) as f64;
    if each >= LITTLE {
        return Ok(Vec::new());
    }
    Ok(vec![Finding::warning(
        format!("the posterior has collapsed: a latent tells only {each:.3} nats about its image"),
        "train stage 1 for longer, or with a smaller weight stage_1.kl, such as 1e-6",
    )])
}
