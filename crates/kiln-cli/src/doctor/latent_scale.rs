//! Whether scaled latents have a standard deviation of one, like the noise that is mixed with them.
//!
//! The U-Net gets the schedule's signal-to-noise ratio only if latents times `scaling_factor` have a standard deviation
//! of one (Rombach et al. 2022, appendix G).

use burn::tensor::Tensor;

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// Deviations beyond this factor from one change the schedule's meaning.
const NOTICEABLE: f64 = 1.25;
/// Beyond this factor the U-Net was trained for other latents.
const BROKEN: f64 = 2.0;

pub(super) fn check(patient: &Patient) -> Findings {
    if patient.is_in_pixel_space() {
        return Err("a model in pixel space has no latents".to_owned());
    }
    let first_stage = (patient.first_stage()).ok_or("there is no trained autoencoder")?;
    if patient.model.is_none() {
        return Err("the factor is measured when stage 2 begins".to_owned());
    }
    let latents = patient.latents.as_ref().ok_or(super::patient::NO_LATENTS)?;
    let factor = first_stage.network.config().scaling_factor();
    let (_, deviation) = mean_and_deviation(latents)?;
    let scaled = deviation * factor;
    let off = scaled.max(1.0 / scaled);
    if off < NOTICEABLE {
        return Ok(Vec::new());
    }
    if !off.is_finite() {
        return Ok(vec![Finding::broken(
            format!(
                "the latents have a standard deviation of {deviation}, so they contain nothing"
            ),
            "train stage 1 again",
        )]);
    }
    let what = format!(
        "the latents' standard deviation is {deviation:.4}; times the scaling_factor {factor:.4} it is {scaled:.3} instead of 1"
    );
    let remedy = format!(
        "set scaling_factor = {:.4} in vqvae/config.json if the U-Net was trained with that, else train stage 2 again",
        1.0 / deviation
    );
    Ok(vec![if off < BROKEN {
        Finding::warning(what, remedy)
    } else {
        Finding::broken(what, remedy)
    }])
}

/// The mean and the standard deviation of all values of a tensor.
pub(super) fn mean_and_deviation(tensor: &Tensor<4>) -> Result<(f64, f64), String> {
    let data = (tensor.clone().try_into_data_as::<f32>()).map_err(|error| error.to_string())?;
    let values: Vec<f64> = data.iter::<f32>().map(f64::from).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    Ok((mean, (squares / values.len() as f64).sqrt()))
}
