//! The steps by name, and what was told of them.

use super::{Outcome, StepFailure, failed, skipped};
use crate::conformance::{Conformance, ConformanceOutcome, ConformanceStep};

/// Every step, in the order in which they are told.
const STEPS: [&str; 25] = [
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
    "half-request",
    "malformed-http",
    "snapshot",
    "sigterm",
    "restore",
    "shutdown",
    "idle-exit",
    "leftovers",
];

/// What is known by now.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<ConformanceStep>);

impl Report {
    pub(super) fn add(&mut self, name: &'static str, outcome: Outcome) {
        debug_assert!(STEPS.contains(&name), "`{name}` has no place in the order of steps");
        let (outcome, message) = match outcome {
            Ok(found) => (ConformanceOutcome::Passed, found),
            Err(StepFailure::Failed(why)) => (ConformanceOutcome::Failed, why),
            Err(StepFailure::Skipped(why)) => (ConformanceOutcome::Skipped, why),
        };
        self.0.push(ConformanceStep::new(name, outcome, message));
    }

    pub(crate) fn passed(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Ok(found.into()));
    }

    pub(crate) fn failed(&mut self, name: &'static str, why: impl Into<String>) {
        self.add(name, failed(why));
    }

    pub(crate) fn skipped(&mut self, name: &'static str, why: impl Into<String>) {
        self.add(name, skipped(why));
    }

    /// Every step once; those that nothing was told of were skipped, for this reason.
    pub(crate) fn finish(self, why_not: &str) -> Conformance {
        let told = |name: &'static str| {
            let told = self.0.iter().find(|step| step.name == name).cloned();
            told.unwrap_or_else(|| {
                let outcome = ConformanceOutcome::Skipped;
                ConformanceStep::new(name, outcome, why_not.to_owned())
            })
        };
        Conformance { steps: STEPS.into_iter().map(told).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_told_once_and_in_order() {
        let mut report = Report::default();
        report.skipped("digest", "none is stated");
        report.failed("manifest", "it is wrong");
        let told = report.finish("it did not start");
        assert_eq!(told.steps.iter().map(|step| step.name).collect::<Vec<_>>(), STEPS);
        assert_eq!(told.steps[0].message, "it is wrong");
        assert_eq!(told.steps[1].outcome, ConformanceOutcome::Skipped);
        assert_eq!(told.steps[2].message, "it did not start");
        assert_eq!((told.is_well(), told.failed().count()), (false, 1));
    }
}
