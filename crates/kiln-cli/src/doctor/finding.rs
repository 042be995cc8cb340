//! What is wrong, how bad it is, and what to do.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The model works, but worse than it could.
    Warning,
    /// The model is useless in this state.
    Broken,
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a sentence.
    pub what: String,
    /// What to do about it, in a sentence.
    pub remedy: String,
}

/// A check's findings, or why it cannot be made.
pub(super) type Findings = Result<Vec<Finding>, String>;

impl Finding {
    pub(super) fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn broken(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Broken,
            ..Self::warning(what, remedy)
        }
    }
}
