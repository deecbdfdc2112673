//! The names of the steps, and their outcomes so far.

use hotbay_process::Diagnosis;

use crate::results::{Conformance, ConformanceOutcome, ConformanceStep};

/// Every step, in the order in which they are reported.
const STEPS: [&str; 26] = [
    "manifest",
    "digest",
    "capabilities",
    "identity",
    "config",
    "launch",
    "location",
    "ready",
    "token",
    "keep-alive",
    "unknown-endpoint",
    "empty-input",
    "sample",
    "concurrency",
    "large-body",
    "deadline",
    "batch",
    "contracts",
    "half-request",
    "malformed-http",
    "snapshot",
    "sigterm",
    "restore",
    "shutdown",
    "idle-exit",
    "leftovers",
];

/// The outcome of a step: what was found, or why it did not pass.
pub(crate) type Outcome = Result<String, StepFailure>;

/// The reason a step did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepFailure {
    Failed(Diagnosis),
    Skipped(Diagnosis),
}

impl From<String> for StepFailure {
    fn from(failure: String) -> Self {
        Self::Failed(failure.into())
    }
}

pub(crate) fn failed<T>(why: impl Into<Diagnosis>) -> Result<T, StepFailure> {
    Err(StepFailure::Failed(why.into()))
}

pub(crate) fn skipped<T>(why: impl Into<Diagnosis>) -> Result<T, StepFailure> {
    Err(StepFailure::Skipped(why.into()))
}

/// The outcomes so far.
#[derive(Debug, Default)]
pub struct Report(Vec<ConformanceStep>);

impl Report {
    pub(crate) fn add(&mut self, name: &'static str, outcome: Outcome) {
        debug_assert!(STEPS.contains(&name), "the step `{name}` is not in the list of steps");
        let (outcome, Diagnosis { message, hint }) = match outcome {
            Ok(found) => (ConformanceOutcome::Passed, found.into()),
            Err(StepFailure::Failed(why)) => (ConformanceOutcome::Failed, why),
            Err(StepFailure::Skipped(why)) => (ConformanceOutcome::Skipped, why),
        };
        self.0.push(ConformanceStep { name, outcome, message, hint });
    }

    /// Records that the program meets a requirement, with what was found.
    pub fn passed(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Ok(found.into()));
    }

    /// Records that the program does not meet a requirement, and why.
    pub fn failed(&mut self, name: &'static str, why: impl Into<Diagnosis>) {
        self.add(name, failed(why));
    }

    /// Records that a requirement was not checked, and why.
    pub fn skipped(&mut self, name: &'static str, why: impl Into<Diagnosis>) {
        self.add(name, skipped(why));
    }

    /// Returns every step once; steps without an outcome count as skipped, for the given reason.
    pub fn finish(self, reason: &str) -> Conformance {
        let step = |name: &'static str| {
            let recorded = self.0.iter().find(|step| step.name == name).cloned();
            recorded.unwrap_or_else(|| {
                let outcome = ConformanceOutcome::Skipped;
                ConformanceStep { name, outcome, message: reason.to_owned(), hint: None }
            })
        };
        Conformance { steps: STEPS.into_iter().map(step).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_reported_once_and_in_order() {
        let mut report = Report::default();
        report.skipped("digest", "no digest in plugin.json");
        report.failed("manifest", Diagnosis::new("it is wrong", "fix it"));
        let conformance = report.finish("it did not start");
        assert_eq!(conformance.steps.iter().map(|step| step.name).collect::<Vec<_>>(), STEPS);
        let (message, hint) = (&*conformance.steps[0].message, &conformance.steps[0].hint);
        assert_eq!((message, hint.as_deref()), ("it is wrong", Some("fix it")));
        assert_eq!(conformance.steps[1].outcome, ConformanceOutcome::Skipped);
        assert_eq!(conformance.steps[2].message, "it did not start");
        assert_eq!((conformance.is_well(), conformance.failed().count()), (false, 1));
    }
}
