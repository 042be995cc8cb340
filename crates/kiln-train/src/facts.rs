//! Facts about a model's training, in its files.

use std::collections::BTreeMap;

use kiln_checkpoint::Metadata;
use kiln_data::Datasets;

use crate::experiment::Experiment;
use crate::start::earlier_steps::EarlierSteps;

/// The number of steps in the facts about a model's training.
pub(crate) fn steps_in(facts: &BTreeMap<String, String>) -> Option<usize> {
    facts.get("steps")?.parse().ok()
}

/// Facts about a model's training, for its weights file.
pub(crate) fn training_facts(
    seed: u64,
    datasets: &Datasets,
    steps: usize,
) -> BTreeMap<String, String> {
    let facts = [
        ("dataset", datasets.train.name().to_owned()),
        ("images", datasets.train.len().to_string()),
        ("seed", seed.to_string()),
        ("steps", steps.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Facts about a network that was trained on `datasets` for this many steps, after `earlier` steps.
pub(crate) fn metadata(
    experiment: &Experiment,
    datasets: &Datasets,
    steps: usize,
    earlier: Option<EarlierSteps>,
) -> Metadata {
    let mut training = training_facts(experiment.seed, datasets, steps);
    if let Some(earlier) = earlier {
        earlier.note(&mut training);
    }
    Metadata {
        border: datasets.train.border(),
        class_names: datasets.train.class_names().to_vec(),
        training,
        ..Metadata::default()
    }
}
