//! The weight of a term in an objective.

use serde::{Deserialize, Serialize};

use super::experiment_error::{ExperimentError, require};

/// How much a term of stage 1's objective counts: a factor such as `0.5`, or `{ balanced = 0.5 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a factor such as 0.5, or a share of the reconstruction's gradient such as { balanced = 0.5 }"
)]
#[non_exhaustive]
pub enum TermWeight {
    /// The term's value is multiplied by this.
    Fixed(f64),
    /// The factor follows the training, so that the term's gradient at the reconstructed pixels is this many times as
    /// long as the reconstruction term's.
    Balanced(Balanced),
}

/// The table of [`TermWeight::Balanced`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balanced {
    /// The length of the term's gradient, in lengths of the reconstruction term's.
    pub balanced: f64,
}

impl Default for TermWeight {
    fn default() -> Self {
        Self::Fixed(0.0)
    }
}

impl TermWeight {
    /// Whether the term does not count at all.
    pub(crate) fn is_zero(&self) -> bool {
        self.number() == 0.0
    }

    /// Whether the factor follows the training.
    pub(crate) fn is_balanced(&self) -> bool {
        matches!(self, Self::Balanced(_))
    }

    fn number(&self) -> f64 {
        match *self {
            Self::Fixed(number) | Self::Balanced(Balanced { balanced: number }) => number,
        }
    }

    pub(super) fn validate(&self, key: &str) -> Result<(), ExperimentError> {
        let number = self.number();
        let holds = number >= 0.0 && (number as f32).is_finite();
        require(holds, key, number, || {
            "a weight is a number from 0, such as 0.5, or a balanced one, such as { balanced = 0.5 }".into()
        })
    }
}
