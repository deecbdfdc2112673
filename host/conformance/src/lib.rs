//! Checks a program against the protocol of process plugins, step by step, including what happens
//! when a host fails. Continues after a failure, and restarts the process if a step ended it. Does
//! not decide what is loaded.
//!
//! Unix only; on other systems, only the results exist.

#![forbid(unsafe_code)]

#[cfg(unix)]
mod calls;
#[cfg(unix)]
mod contracts;
#[cfg(unix)]
mod kit;
#[cfg(unix)]
mod life;
#[cfg(unix)]
mod raw_requests;
#[cfg(unix)]
mod report;
mod results;

#[cfg(unix)]
pub use kit::Sample;
#[cfg(unix)]
pub use report::Report;
pub use results::{Conformance, ConformanceOutcome, ConformanceStep};

#[cfg(unix)]
use hotbay_process::{Capabilities, Program};
#[cfg(unix)]
use kit::TestKit;

/// Runs all steps with a program, on a thread of a host's runtime, and adds them to `report`.
/// `declared` checks what the program declares.
#[cfg(unix)]
pub async fn check(
    program: Program,
    sample: Option<Sample>,
    report: Report,
    declared: impl FnOnce(&Capabilities, &mut Report) + Send,
) -> Conformance {
    let mut kit = TestKit::new(program, sample, report);
    life::ask_capabilities(&mut kit).await;
    let Some(capabilities) = &kit.capabilities else {
        return kit.report.finish("its capabilities are unknown");
    };
    declared(capabilities, &mut kit.report);
    run(&mut kit).await;
    kit.stop_running().await;
    let reason = format!("the step was not reached: {}", kit.not_running);
    kit.report.finish(&reason)
}

/// Runs all steps that follow the capabilities.
#[cfg(unix)]
async fn run(kit: &mut TestKit) {
    life::first_start(kit).await;
    let outcome = raw_requests::token(kit).await;
    kit.conclude("token", outcome).await;
    let outcome = raw_requests::keep_alive(kit).await;
    kit.conclude("keep-alive", outcome).await;
    let outcome = raw_requests::unknown_endpoint(kit).await;
    kit.conclude("unknown-endpoint", outcome).await;
    let outcome = calls::empty_input(kit).await;
    kit.conclude("empty-input", outcome).await;
    let outcome = calls::sample(kit).await;
    kit.conclude("sample", outcome).await;
    let outcome = calls::concurrency(kit).await;
    kit.conclude("concurrency", outcome).await;
    let outcome = calls::large_body(kit).await;
    kit.conclude("large-body", outcome).await;
    let outcome = calls::deadline(kit).await;
    kit.conclude("deadline", outcome).await;
    let outcome = calls::batch(kit).await;
    kit.conclude("batch", outcome).await;
    let outcome = contracts::contracts(kit).await;
    kit.conclude("contracts", outcome).await;
    let outcome = raw_requests::half_request(kit).await;
    kit.conclude("half-request", outcome).await;
    let outcome = raw_requests::malformed(kit).await;
    kit.conclude("malformed-http", outcome).await;
    let (outcome, state) = calls::snapshot(kit).await;
    kit.conclude("snapshot", outcome).await;
    let outcome = life::by_signal(kit).await;
    kit.record("sigterm", outcome);
    kit.start_again(None).await;
    let outcome = calls::restore(kit, state).await;
    kit.conclude("restore", outcome).await;
    let outcome = life::by_request(kit).await;
    kit.record("shutdown", outcome);
    let outcome = life::when_idle(kit).await;
    kit.record("idle-exit", outcome);
    let outcome = life::leftovers(kit);
    kit.record("leftovers", outcome);
}
