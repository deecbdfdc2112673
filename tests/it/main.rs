//! Tests of the library through its public API, a folder or file per subject. One binary, since each
//! link takes seconds.

#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

mod calls;
mod contracts;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod exports;
#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
mod isolation;
mod layers;
mod load;
mod logs;
mod metrics;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod naive;
mod pipelines;
mod pool;
#[cfg(target_os = "linux")]
mod process;
mod reload;
#[cfg(target_os = "linux")]
mod sandbox;
mod storage;
mod unload;
mod watch;

#[cfg(unix)]
mod both_kinds;
mod scripted_plugin;
