//! What came of holding a program against the protocol, step by step. Only values; the checks
//! are the supervisor's.

use std::fmt;

/// What came of every step of the protocol that a program was held against, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conformance {
    /// The steps.
    pub steps: Vec<ConformanceStep>,
}

/// One step of the protocol, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConformanceStep {
    /// A name that stays: lower case, words joined by `-`, such as `keep-alive`.
    pub name: &'static str,
    /// Whether the program did what the protocol asks for.
    pub outcome: ConformanceOutcome,
    /// For people: what was found; after a failure also what was wanted and what to do.
    pub message: String,
}

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConformanceOutcome {
    /// The program did what the protocol asks for.
    Passed,
    /// It did not.
    Failed,
    /// It was not looked at; the message says why.
    Skipped,
}

impl Conformance {
    /// Whether no step failed.
    pub fn is_well(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The steps that failed.
    pub fn failed(&self) -> impl Iterator<Item = &ConformanceStep> {
        self.steps.iter().filter(|step| step.outcome == ConformanceOutcome::Failed)
    }
}

#[cfg(unix)]
impl ConformanceStep {
    pub(crate) fn new(name: &'static str, outcome: ConformanceOutcome, message: String) -> Self {
        Self { name, outcome, message }
    }
}

impl ConformanceOutcome {
    /// The name that the command prints as JSON: `passed`, `failed` or `skipped`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for ConformanceOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
