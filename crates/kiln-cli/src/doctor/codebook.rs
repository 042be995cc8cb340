//! How many codes of the codebook are in use: the others are useless parameters.

use burn::tensor::Tensor;
use kiln_models::Autoencoder;
use kiln_models::bottleneck::QuantizerConfig;
use kiln_models::bottleneck::vq::codes_in_use;

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// A smaller share of codes in use gets a warning.
const FEW: f64 = 0.5;
/// Latent vectors per code that are needed to decide that a code is never used.
const VECTORS_PER_CODE: usize = 10;

pub(super) fn check(patient: &Patient) -> Findings {
    if patient.is_in_pixel_space() {
        return Err("a model in pixel space has no codebook".to_owned());
    }
    let autoencoder = patient
        .first_stage()
        .map(|first_stage| &first_stage.network);
    if autoencoder.is_some_and(|network| network.bottleneck.codes().is_none()) {
        return Err("the model's autoencoder has no codebook".to_owned());
    }
    let counted = match (autoencoder, &patient.latents) {
        (Some(autoencoder), Some(latents)) => count(autoencoder, latents)?,
        _ => None,
    };
    let share = counted
        .or_else(|| reported(patient))
        .ok_or("counting codes needs stage 1's metrics, or images (--config or --data)")?;
    if share >= FEW {
        return Ok(Vec::new());
    }
    let quantizer = autoencoder.and_then(|network| network.config().own_quantizer());
    Ok(vec![Finding::warning(
        format!("only {:.1} % of the codes are in use", 100.0 * share),
        remedy(quantizer),
    )])
}

fn remedy(quantizer: Option<&QuantizerConfig>) -> &'static str {
    match quantizer {
        Some(QuantizerConfig::Fsq { .. }) => {
            "unused codes of fsq cost nothing; to use more of them, train stage 1 for longer, or with smaller levels in vqvae.quantizer"
        }
        Some(QuantizerConfig::SimVq) => {
            "train stage 1 for longer, with a vq_embed_dim of 4, or with fewer codes"
        }
        Some(QuantizerConfig::Residual { .. }) => {
            "train stage 1 with fewer codes or tables, or for longer; codebook.update = \"ema\", restart_below = 0.01 and a vq_embed_dim of 4 keep more of them in use"
        }
        _ => {
            "train stage 1 with fewer codes, or for longer; codebook.update = \"ema\", restart_below = 0.01 and a vq_embed_dim of 4 keep more of them in use"
        }
    }
}

/// The share of the codes that the latents use; `None` if there are too few latents to decide.
fn count(autoencoder: &Autoencoder, latents: &Tensor<4>) -> Result<Option<f64>, String> {
    let bottleneck = &autoencoder.bottleneck;
    let Some(codes) = bottleneck.codes() else {
        return Ok(None);
    };
    let dimension = autoencoder.config().latent_dim();
    let [images, dimensions, height, width] = latents.dims();
    if dimensions != dimension {
        return Ok(None);
    }
    let Some(chosen) = bottleneck.chosen(latents.clone()) else {
        return Ok(None);
    };
    let [_, tables, _, _] = chosen.dims();
    if images * height * width * tables < VECTORS_PER_CODE * codes {
        return Ok(None);
    }
    let chosen = (chosen.try_into_data_as::<i64>()).map_err(|error| error.to_string())?;
    let mut counts = vec![0.0; codes];
    for code in chosen.iter::<i64>() {
        if let Some(count) = counts.get_mut(code as usize) {
            *count += 1.0;
        }
    }
    Ok(Some(codes_in_use(&counts) as f64 / codes as f64))
}

/// The last share of codes in use that stage 1 logged. Few held-out images cannot use many codes, so the training's
/// counts, too.
fn reported(patient: &Patient) -> Option<f64> {
    let stage = patient.stage_1()?;
    let columns = ["codes in use/valid", "codes in use/train"];
    let shares = columns
        .into_iter()
        .filter_map(|column| stage.newest(column));
    Some(shares.reduce(f64::max)? / 100.0)
}
