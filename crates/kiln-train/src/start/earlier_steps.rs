//! What weights had learnt before a training began with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name under which a model tells how many steps its weights had learnt for before its own training.
const EARLIER_STEPS: &str = "earlier_steps";

/// How many steps weights have learnt for before a training began with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EarlierSteps(u64);

impl EarlierSteps {
    /// Those of a model with these facts about its training, and those before it.
    pub(crate) fn of(facts: &BTreeMap<String, String>) -> Self {
        let number = |name| facts.get(name).and_then(|steps| steps.parse().ok());
        let parts: [Option<u64>; 2] = [number("steps"), number(EARLIER_STEPS)];
        Self(parts.into_iter().flatten().sum())
    }

    /// Notes them among the facts about a training.
    pub(crate) fn note(self, facts: &mut BTreeMap<String, String>) {
        facts.insert(EARLIER_STEPS.to_owned(), self.0.to_string());
    }
}
