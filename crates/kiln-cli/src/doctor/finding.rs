//! What was found, how bad it is, and what to do.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong: a figure worth knowing.
    Note,
    /// The model works, but worse than it could.
    Warning,
    /// The model is useless in this state.
    Broken,
}

/// A problem, or a figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, or the figure, in a sentence.
    pub what: String,
    /// What to do about it, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// A check's findings, or why it cannot be made.
pub(super) type Findings = Result<Vec<Finding>, String>;

impl Finding {
    pub(super) fn note(what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            what: what.into(),
            remedy: None,
        }
    }

    pub(super) fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub(super) fn broken(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Broken,
            ..Self::warning(what, remedy)
        }
    }
}
