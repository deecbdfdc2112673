//! Results of checking a program against the protocol, step by step.

use std::fmt;

/// The results of checking a program against the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conformance {
    /// The steps, in order.
    pub steps: Vec<ConformanceStep>,
}

/// A step of the protocol, and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConformanceStep {
    /// A stable name: lower case, words joined by `-`, such as `keep-alive`.
    pub name: &'static str,
    /// Whether the program meets the requirement.
    pub outcome: ConformanceOutcome,
    /// A message for people: what was found, and after a failure also what was expected.
    pub message: String,
    /// Advice on how to pass the step.
    pub hint: Option<String>,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConformanceOutcome {
    /// The program meets the requirement.
    Passed,
    /// It does not.
    Failed,
    /// It was not checked; the message states why.
    Skipped,
}

impl Conformance {
    /// Returns whether no step failed.
    pub fn is_well(&self) -> bool {
        self.failed().next().is_none()
    }

    /// Returns the steps that failed.
    pub fn failed(&self) -> impl Iterator<Item = &ConformanceStep> {
        self.steps.iter().filter(|step| step.outcome == ConformanceOutcome::Failed)
    }
}

impl ConformanceOutcome {
    /// Returns the name that the command prints as JSON: `passed`, `failed` or `skipped`.
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
