//! Test support: servers of PostgreSQL on a Unix socket in a private folder, and databases in them.
//!
//! Debian's package `postgresql` or programs in `PATH` are used. Without them, tests are skipped, but
//! fail on Linux if the variable `CI` is set.

#![cfg(unix)]
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests start servers and their clients")]

mod client;
mod database;
mod programs;
mod server;

pub use database::{Database, Session};
pub use server::Server;
