//! Tests of the gateway: the real program, with real plugins, called over HTTP.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test helpers are tests too")]

mod client;
mod failures;
mod policies;
mod program;
mod shutdown;
mod swaps;
