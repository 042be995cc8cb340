//! Whether all outputs of the networks are finite while an image is drawn.

use kiln::{Error, Pipeline, SampleOptions};

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// Enough to call the network at noise of every strength.
const STEPS: usize = 10;

pub(super) fn check(patient: &Patient) -> Findings {
    let Some(model) = &patient.model else {
        return Err("it needs a whole model".to_owned());
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
