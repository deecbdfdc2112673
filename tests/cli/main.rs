//! Tests of the command `hotbay` as users run it: its output, its exit codes, and what it leaves. A
//! file per subcommand. The library is tested in `it`.

#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

#[cfg(target_os = "linux")]
mod build;
#[cfg(target_os = "linux")]
mod build_watch;
mod call;
mod check;
#[cfg(unix)]
mod check_programs;
mod command;
mod config;
mod contract;
#[cfg(target_os = "linux")]
mod guide;
mod help;
mod inspect;
mod list;
mod pipe_lines;
#[cfg(unix)]
mod run;
#[cfg(unix)]
mod run_metrics;
mod seal;
mod sign;
