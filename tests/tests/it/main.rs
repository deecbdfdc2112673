//! Tests across crates, in one binary, since each would link for seconds.

#[path = "../command.rs"]
mod command;
#[path = "../facts.rs"]
mod facts;
