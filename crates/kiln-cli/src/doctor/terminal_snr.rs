//! Whether the schedule ends in pure noise, which sampling starts from (Lin et al. 2023).

use kiln_diffusion::Schedule;

use super::finding::{Finding, Findings};
use super::patient::Patient;

pub(super) fn check(patient: &Patient) -> Findings {
    let scheduler = (patient.scheduler.as_ref()).ok_or("there is no schedule without a U-Net")?;
    let schedule = Schedule::new(scheduler.schedule.clone()).map_err(|error| error.to_string())?;
    let Some(warning) = schedule.warning() else {
        return Ok(Vec::new());
    };
    // "what is wrong: what to do."
    let (what, remedy) = warning.split_once(": ").unwrap_or((&warning, ""));
    let remedy = format!("train again with another schedule: {remedy}");
    Ok(vec![Finding::warning(
        what,
        remedy.trim_end_matches([':', ' ', '.']),
    )])
}
