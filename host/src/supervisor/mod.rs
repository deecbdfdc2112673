//! Plugins as child processes: starts them, supervises them, calls them over HTTP on a local
//! socket, restarts them after an exit, and always reaps them. Does not decide what is loaded.

mod activity;
#[cfg(target_os = "linux")]
mod adopted;
mod batch;
mod child;
mod child_guard;
mod config_delivery;
mod config_types;
mod conformance;
#[cfg(target_os = "linux")]
mod descendants;
mod diagnose;
mod dialect;
mod environment;
mod folder;
mod guardian;
mod http;
mod hung;
mod launch_tag;
mod leftovers;
mod lines;
mod listeners;
mod location;
mod pipes;
#[allow(unsafe_code, reason = "what a child does between fork and exec")]
mod prepare;
mod process;
mod program;
mod query_capabilities;
mod random;
mod reply;
mod requests;
mod restart;
mod run_to_end;
mod runtime;
mod services;
mod start;
mod state;
mod watch;

#[cfg(test)]
mod child_tests;
#[cfg(all(test, target_os = "linux"))]
mod guardian_tests;
#[cfg(test)]
mod run_to_end_tests;

use std::time::Duration;

pub(crate) use conformance::{Report, Sample, TestKit};
pub(crate) use dialect::Capabilities;
pub(crate) use environment::allowed;
pub(crate) use process::{Process, ProcessCall};
pub(crate) use program::{ObserverRef, ProcessLimits, ProcessObserver, Program};
pub(crate) use query_capabilities::capabilities;
pub(crate) use runtime::Processes;
pub(crate) use start::NotStarted;
pub(crate) use watch::begin;

/// Time for which a child's output is read after it was reaped, in case another process still holds
/// its pipes.
const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
