//! Whether the validation loss falls together with the training loss, or the network memorises its
//! images.

use kiln_train::StageRecord;

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// A validation loss that exceeds its best by this factor has risen; less is chance.
const RISEN: f64 = 1.1;
/// A validation loss of this many times the training loss is a gap.
const GAP: f64 = 2.0;

const REMEDY: &str = "train on more images (horizontal_flip doubles them), with a smaller network or more weight_decay, \
     or stop where validation was best";

pub(super) fn check(patient: &Patient) -> Findings {
    if patient.stages.is_empty() {
        return Err("it needs the losses in the metrics.csv of a run folder".to_owned());
    }
    let damage = patient
        .stages
        .iter()
        .filter_map(|stage| stage.damage.as_ref());
    let damage: Vec<Finding> = damage
        .map(|damage| {
            Finding::warning(
                damage,
                "repair it, or move it away to do without these curves",
            )
        })
        .collect();
    if !damage.is_empty() {
        let gaps = patient.stages.iter().filter_map(of_stage);
        return Ok(damage.into_iter().chain(gaps).collect());
    }
    if patient
        .stages
        .iter()
        .all(|stage| losses(stage).next().is_none())
    {
        return Err("no round has both a training and a validation loss".to_owned());
    }
    Ok(patient.stages.iter().filter_map(of_stage).collect())
}

/// Steps, and the training and the validation loss there.
fn losses(stage: &StageRecord) -> impl DoubleEndedIterator<Item = (usize, f64, f64)> {
    let rows = stage.rows.iter();
    rows.filter_map(|(&step, row)| Some((step, *row.get("loss/train")?, *row.get("loss/valid")?)))
}

fn of_stage(stage: &StageRecord) -> Option<Finding> {
    let (step, train, valid) = losses(stage).next_back()?;
    if !(train.is_finite() && valid.is_finite()) {
        let what = format!(
            "the losses of {} are no numbers any more: {train} in training and {valid} in validation at step {step}",
            stage.name
        );
        let remedy = "train again with a lower learning_rate, clip_norm or weight of a term";
        return Some(Finding::warning(what, remedy));
    }
    let (best_step, train_then, best) =
        losses(stage).min_by(|one, other| one.2.total_cmp(&other.2))?;
    let first = losses(stage).next().map(|(_, train, _)| train);
    if valid > RISEN * best && first.is_some_and(|first| train > RISEN * first) {
        let what = format!(
            "the losses of {} have risen: training ends at {train:.4}, and validation went from {best:.4} (step {best_step}) to \
             {valid:.4}",
            stage.name
        );
        let remedy = "train again with a lower learning_rate or more warmup_steps";
        return Some(Finding::warning(what, remedy));
    }
    if valid > RISEN * best && train < train_then {
        let what = format!(
            "the validation loss of {} has risen from {best:.4} (step {best_step}) to {valid:.4}, while the training \
             loss fell from {train_then:.4} to {train:.4}",
            stage.name
        );
        return Some(Finding::warning(what, REMEDY));
    }
    (valid > GAP * train && train > 0.0).then(|| {
        let what = format!(
            "the validation loss of {} is {:.1} times its training loss ({valid:.4} against {train:.4})",
            stage.name,
            valid / train
        );
        Finding::warning(what, REMEDY)
    })
}
