//! How a run goes, in the page's words.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use kiln_data::read_regular;
use kiln_play::protocol::{Curve, RunFacts, StageFacts};
use kiln_train::{RunRecord, StageRecord};

use crate::doctor::{Patient, examine};

/// How a PNG file begins.
const PNG: &[u8] = b"\x89PNG\r\n";
/// Pictures of trainings are far smaller.
const LARGEST_PICTURE: u64 = 64 << 20;

/// The record of a run.
pub(super) fn facts(run: &Path) -> Result<RunFacts, String> {
    let record = RunRecord::open(run).map_err(|error| error.to_string())?;
    let config = fs::read_to_string(run.join("config.toml"));
    Ok(RunFacts {
        run: run.display().to_string(),
        config: config.map_err(|error| error.to_string())?,
        stages: record.stages.iter().map(stage).collect(),
    })
}

/// The PNG file that a stage drew after a training step.
pub(super) fn picture(run: &Path, stage: &str, step: u32) -> Result<Vec<u8>, String> {
    let record = RunRecord::open(run).map_err(|error| error.to_string())?;
    let of_stage = record.stages.iter().find(|found| found.name == stage);
    let pictures = of_stage.map(StageRecord::pictures).unwrap_or_default();
    let file = pictures.get(&(step as usize));
    let file = file.ok_or_else(|| format!("{stage} has no picture of step {step}"))?;
    let problem = |problem: &dyn Display| format!("{}: {problem}", file.display());
    // A run of somebody else's may have links to files that are none of the page's business.
    let is_link = file.symlink_metadata().is_ok_and(|file| file.is_symlink());
    let picture = match is_link {
        true => return Err(problem(&"it is a link")),
        false => read_regular(file, LARGEST_PICTURE).map_err(|error| problem(&error))?,
    };
    match picture.starts_with(PNG) {
        true => Ok(picture),
        false => Err(problem(&"it is no PNG file")),
    }
}

/// What `kiln doctor` finds to be wrong, and what to do about it.
pub(super) fn findings(run: &Path) -> Result<Vec<[String; 2]>, String> {
    let patient = Patient::open(run, &Device::flex()).map_err(|error| format!("{error:#}"))?;
    let examined = examine(&patient).into_iter();
    let findings = examined.flat_map(|examined| examined.findings);
    Ok(findings
        .filter_map(|finding| Some([finding.what, finding.remedy?]))
        .collect())
}

fn stage(record: &StageRecord) -> StageFacts {
    let mut curves: BTreeMap<&str, Vec<(u32, f64)>> = BTreeMap::new();
    for (&step, row) in &record.rows {
        for (name, &value) in row {
            curves.entry(name).or_default().push((step as u32, value));
        }
    }
    let curves = curves.into_iter().map(|(name, points)| Curve {
        name: name.to_owned(),
        points,
    });
    let steps = |steps: Vec<usize>| steps.into_iter().map(|step| step as u32).collect();
    StageFacts {
        stage: record.name.to_owned(),
        steps: record.training.steps as u32,
        done: record.steps_done() as u32,
        devices: record.devices(),
        seconds_a_step: record.step_time().map(|time| time.as_secs_f64()),
        seconds_since: record.age().map(|time| time.as_secs_f64()),
        damage: record.damage.clone(),
        curves: curves.collect(),
        checkpoints: steps(record.checkpoints().into_keys().collect()),
        pictures: steps(record.pictures().into_keys().collect()),
    }
}
