//! Whether all outputs of the networks are finite while an image is drawn.

use kiln::{Error, Pipeline, SampleOptions};

use super::{Finding, Findings, Patient};

/// Enough to call the network at noise of every strength.
const STEPS: usize = 10;

pub(super) fn check(patient: &Patient) -> Findings {
    let Some(model) = &patient.model else {
        return Err("it takes a whole model".to_owned());
    };
    let pipeline = Pipeline::from_model(patient.name.clone(), model.clone(), &patient.device)
        .map_err(|error| error.to_string())?;
    let defaults = pipeline.default_options();
    let options = SampleOptions {
        steps: STEPS.min(defaults.steps),
        count: 1,
        classes: defaults.classes.iter().copied().take(1).collect(),
        ..defaults
    };
    match pipeline.sample(&options, |_| Ok(())) {
        Ok(_) => Ok(Vec::new()),
        Err(Error::NetworkNotFinite { step, timestep }) => Ok(vec![lost(format!(
            "in step {step} of {} of a drawing, at timestep {timestep:.0}, the network answers with numbers that are not finite",
            options.steps
        ))]),
        Err(Error::NotFinite(what)) => Ok(vec![lost(format!(
            "{what} has numbers that are not finite, when an image is drawn"
        ))]),
        Err(error) => Err(error.to_string()),
    }
}

fn lost(what: String) -> Finding {
    Finding::broken(
        what,
        "train again from the last good checkpoint (--resume), with a lower learning_rate or clip_norm",
    )
}
