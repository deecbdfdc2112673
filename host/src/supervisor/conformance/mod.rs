//! Conformance checks: validates a program against every step of the protocol, including what
//! happens when a host fails. Continues after a failure, and restarts the process if a step ended
//! it. Does not decide what is loaded.

mod answers;
mod batches;
mod calls;
mod ends;
mod kit;
mod raw_requests;
mod report;
mod starts;
mod states;

use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;

pub(crate) use kit::TestKit;
pub(crate) use report::Report;

use crate::error::Diagnosis;

/// Time limit of one request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which a program must exit on request, including calls in flight.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// An input that the program is known to accept.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) content_type: HeaderValue,
    pub(crate) bytes: Bytes,
}

/// The outcome of a step: what was found, or why it did not pass.
type Outcome = Result<String, StepFailure>;

/// The reason a step did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StepFailure {
    Failed(Diagnosis),
    Skipped(Diagnosis),
}

impl From<String> for StepFailure {
    fn from(failure: String) -> Self {
        Self::Failed(failure.into())
    }
}

fn failed<T>(why: impl Into<Diagnosis>) -> Result<T, StepFailure> {
    Err(StepFailure::Failed(why.into()))
}

fn skipped<T>(why: impl Into<Diagnosis>) -> Result<T, StepFailure> {
    Err(StepFailure::Skipped(why.into()))
}

impl TestKit {
    /// Runs all steps that follow the capabilities.
    async fn run_steps(&mut self) {
        self.first_start().await;
        let outcome = raw_requests::token(self).await;
        self.conclude("token", outcome).await;
        let outcome = raw_requests::keep_alive(self).await;
        self.conclude("keep-alive", outcome).await;
        let outcome = raw_requests::unknown_endpoint(self).await;
        self.conclude("unknown-endpoint", outcome).await;
        let outcome = calls::empty_input(self).await;
        self.conclude("empty-input", outcome).await;
        let outcome = calls::sample(self).await;
        self.conclude("sample", outcome).await;
        let outcome = calls::concurrency(self).await;
        self.conclude("concurrency", outcome).await;
        let outcome = calls::large_body(self).await;
        self.conclude("large-body", outcome).await;
        let outcome = calls::deadline(self).await;
        self.conclude("deadline", outcome).await;
        let outcome = batches::batch(self).await;
        self.conclude("batch", outcome).await;
        let outcome = raw_requests::half_request(self).await;
        self.conclude("half-request", outcome).await;
        let outcome = raw_requests::malformed(self).await;
        self.conclude("malformed-http", outcome).await;
        let (outcome, state) = states::snapshot(self).await;
        self.conclude("snapshot", outcome).await;
        let outcome = ends::by_signal(self).await;
        self.record("sigterm", outcome);
        self.start_again(None).await;
        let outcome = states::restore(self, state).await;
        self.conclude("restore", outcome).await;
        let outcome = ends::by_request(self).await;
        self.record("shutdown", outcome);
        let outcome = ends::when_idle(self).await;
        self.record("idle-exit", outcome);
        let outcome = ends::leftovers(self);
        self.record("leftovers", outcome);
    }
}
