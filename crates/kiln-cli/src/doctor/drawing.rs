//! Whether all outputs of the networks are finite: of the first stage, which gives back a picture, and of all of them
//! while an image is drawn.

use burn::tensor::{Tensor, TensorData};
use kiln::{Error, Pipeline, SampleOptions};

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// Enough to call the network at noise of every strength.
const STEPS: usize = 10;

pub(super) fn check(patient: &Patient) -> Findings {
    if let Some(finding) = first_stage(patient)? {
        return Ok(vec![finding]);
    }
    let Some(model) = &patient.model else {
        return match patient.first_stage() {
            Some(_) => Ok(Vec::new()),
            None => Err("it needs a model".to_owned()),
        };
    };
    let pipeline = Pipeline::from_model(patient.name.clone(), model.clone(), &patient.device);
    let pipeline = match pipeline {
        Ok(pipeline) => pipeline,
        // `kiln sample` says the same.
        Err(error) => return Ok(vec![undrawable(&error)]),
    };
    let defaults = pipeline.default_options();
    let options = SampleOptions {
        steps: STEPS.min(defaults.steps),
        count: 1,
        classes: defaults.classes.iter().copied().take(1).collect(),
        ..defaults
    };
    match pipeline.sample(&options) {
        Ok(_) => Ok(Vec::new()),
        Err(Error::NetworkNotFinite { step, timestep }) => Ok(vec![lost(format!(
            "in step {step} of {} of a drawing, at timestep {timestep:.0}, the network's output is not finite",
            options.steps
        ))]),
        Err(Error::NotFinite(what)) => Ok(vec![lost(format!(
            "{what} has numbers that are not finite, when an image is drawn"
        ))]),
        // This is a problem of the machine, not of the model.
        Err(error @ (Error::Memory { .. } | Error::Compute(_))) => Err(error.to_string()),
        Err(error) => Ok(vec![undrawable(&error)]),
    }
}

/// A finding if the first stage gives back a picture with numbers that are not finite.
fn first_stage(patient: &Patient) -> Result<Option<Finding>, String> {
    let (Some(first_stage), Some((side, channels))) =
        (patient.first_stage(), patient.image_shape())
    else {
        return Ok(None);
    };
    let numbers = channels * side * side;
    let ramp = (0..numbers).map(|place| (place % side) as f32 / side as f32 * 2.0 - 1.0);
    let picture = TensorData::new(ramp.collect(), [1, channels, side, side]);
    let picture = Tensor::from_data(picture, &patient.device);
    let (given_back, _) = first_stage.network.forward(picture, None);
    let numbers = given_back.try_into_data_as::<f32>();
    let numbers = numbers.map_err(|error| error.to_string())?;
    let is_finite = numbers.iter::<f32>().all(f32::is_finite);
    Ok((!is_finite).then(|| {
        lost(
            "what the first stage gives back for a picture has numbers that are not finite"
                .to_owned(),
        )
    }))
}

/// The networks may be sound although they cannot draw.
fn undrawable(error: &Error) -> Finding {
    let error = error.to_string();
    let (what, remedy) = error
        .split_once("; ")
        .unwrap_or((&error, "train again, or convert the model again"));
    Finding::broken(format!("kiln cannot draw with it: {what}"), remedy)
}

fn lost(what: String) -> Finding {
    Finding::broken(
        what,
        "train again from the last good checkpoint (--resume), with a lower learning_rate or clip_norm",
    )
}
