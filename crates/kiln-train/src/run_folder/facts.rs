//! Facts about a model's training, in its files.

use std::collections::BTreeMap;

use kiln_checkpoint::Metadata;
use kiln_data::Datasets;
use serde::{Deserialize, Serialize};

use crate::experiment::Experiment;

/// The key for the number of steps that a model's weights had been trained before its own training.
const EARLIER_STEPS: &str = "earlier_steps";

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

/// The number of steps that weights had been trained before a training began with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EarlierSteps(u64);

impl EarlierSteps {
    /// The steps of a model with these facts about its training, including the steps before it.
    pub(crate) fn of(facts: &BTreeMap<String, String>) -> Self {
        let number = |name| facts.get(name).and_then(|steps| steps.parse().ok());
        let parts: [Option<u64>; 2] = [number("steps"), number(EARLIER_STEPS)];
        Self(parts.into_iter().flatten().sum())
    }

    /// Adds them to the facts about a training.
    pub(crate) fn note(self, facts: &mut BTreeMap<String, String>) {
        facts.insert(EARLIER_STEPS.to_owned(), self.0.to_string());
    }
}
