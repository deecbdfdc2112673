//! Plugins in their own processes: starts, calls, exits and restarts, logs, and the SDK.

mod caller_runtimes;
mod calls;
mod connections;
mod dialects;
pub(crate) mod fixture;
mod frames;
mod idle_and_hung;
mod lifecycle;
mod logs;
mod responses;
mod retries;
mod sdk;
mod shutdown;
mod start;
mod supervision;
mod usage;
