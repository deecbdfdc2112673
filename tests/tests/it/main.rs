//! Tests across crates, in one binary, since each would link for seconds. One module a subject.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod closing;
mod disk;
mod ends;
mod faults;
mod handover;
mod interrupted;
mod lifecycle;
mod limits;
mod linked;
mod load;
mod logs;
mod manifests;
mod mended;
mod metrics;
#[cfg(unix)]
mod mutants;
mod order;
mod quarantine;
mod queue;
mod races;
mod reload;
mod rollback;
mod watch;
mod worker_pool;

#[path = "../command.rs"]
mod command;
#[path = "../facts.rs"]
mod facts;
#[path = "../run.rs"]
mod run;
#[path = "../run_metrics.rs"]
mod run_metrics;
