//! The training of initial weights before a training began with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The key for the number of steps that a model's weights had been trained before its own training.
const EARLIER_STEPS: &str = "earlier_steps";

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
