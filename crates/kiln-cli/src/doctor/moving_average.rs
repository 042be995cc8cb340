//! Whether the averaged weights, which a model keeps, have forgotten the initial ones.

use kiln_models::ema::EmaConfig;
use kiln_train::StageRecord;

use super::finding::{Finding, Findings};
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    if patient.stages.is_empty() {
        let needed =
            "it needs the metrics.csv of a run folder, which has the length of the training";
        return Err(needed.to_owned());
    }
    if patient.stages.iter().all(|stage| stage.damage.is_some()) {
        return Err("metrics.csv, which has the length of the training, is damaged".to_owned());
    }
    if patient
        .stages
        .iter()
        .all(|stage| stage.training.ema.is_none())
    {
        return Err("the run was trained without one".to_owned());
    }
    Ok(patient.stages.iter().filter_map(of_stage).collect())
}

/// An average with decay d covers about the last 1 / (1 - d) steps. A younger average still consists largely of the
/// weights that it began with.
fn of_stage(stage: &StageRecord) -> Option<Finding> {
    let average = (stage.training.ema.as_ref()).filter(|_| stage.damage.is_none())?;
    let steps = stage.steps_done() as u64;
    let age = steps.saturating_sub(average.update_after_step);
    let decay = average.decay_at(steps);
    let window = 1.0 / (1.0 - decay).max(f64::EPSILON);
    if age as f64 >= window || decay == 0.0 {
        return None;
    }
    let what = format!(
        "the moving average of {} is {age} steps old but averages over {window:.0} (decay {decay}), \
         so {:.0} % of it is still the initial weights",
        stage.name,
        100.0 * share_of_the_beginning(average, steps),
    );
    let remedy = format!(
        "train for at least {:.0} steps, or set a smaller ema.min_decay, so that the average warms up",
        3.0 * window
    );
    Some(Finding::warning(what, remedy))
}

/// The share of the first weights in the average: the product of all decays since then.
fn share_of_the_beginning(average: &EmaConfig, steps: u64) -> f64 {
    let decays = (1..=steps).map(|step| average.decay_at(step));
    decays.skip_while(|&decay| decay == 0.0).product()
}
