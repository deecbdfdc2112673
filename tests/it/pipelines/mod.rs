//! Pipelines: one request at a time, streams of requests, and their limits.

#[cfg(unix)]
mod both_kinds;
mod limits;
mod single;
mod streams;
