//! The names of the steps, and their outcomes.

use super::{Outcome, StepFailure, failed, skipped};
use crate::conformance::{Conformance, ConformanceOutcome, ConformanceStep};
use crate::error::Diagnosis;

/// Every step, in the order in which they are reported.
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

/// The outcomes so far.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<ConformanceStep>);

impl Report {
    pub(super) fn add(&mut self, name: &'static str, outcome: Outcome) {
        debug_assert!(STEPS.contains(&name), "the step `{name}` is not in the list of steps");
        let (outcome, Diagnosis { message, hint }) = match outcome {
            Ok(found) => (ConformanceOutcome::Passed, found.into()),
            Err(StepFailure::Failed(why)) => (ConformanceOutcome::Failed, why),
            Err(StepFailure::Skipped(why)) => (ConformanceOutcome::Skipped, why),
        };
        self.0.push(ConformanceStep::new(name, outcome, message, hint));
    }

    pub(crate) fn passed(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, Ok(found.into()));
    }

    pub(crate) fn failed(&mut self, name: &'static str, why: impl Into<Diagnosis>) {
        self.add(name, failed(why));
    }

    pub(crate) fn skipped(&mut self, name: &'static str, why: impl Into<Diagnosis>) {
        self.add(name, skipped(why));
    }

    /// Returns every step once; steps without an outcome count as skipped, for the given reason.
    pub(crate) fn finish(self, reason: &str) -> Conformance {
        let step = |name: &'static str| {
            let recorded = self.0.iter().find(|step| step.name == name).cloned();
            recorded.unwrap_or_else(|| {
                let outcome = ConformanceOutcome::Skipped;
                ConformanceStep::new(name, outcome, reason.to_owned(), None)
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
