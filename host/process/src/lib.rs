//! Plugins as child processes: starts them, supervises them, calls them over HTTP on a local
//! socket, restarts them after an exit, and always reaps them. Does not decide what is loaded.
//!
//! A host queries the [`Capabilities`](Program::capabilities) of a [`Program`], starts it with
//! [`supervise`], and calls the [`Process`] that this returns. [`unsupervised`] is for tests of
//! programs.
//!
//! Unix only.

#![cfg(unix)]
#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod adopted;
mod call;
mod call_time;
mod capabilities;
mod child;
mod child_guard;
mod client;
mod config;
mod connection;
mod contract_calls;
mod descendants;
mod diagnose;
mod error;
mod exchange;
mod expected;
mod frames;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod guardian;
mod http;
mod last_output;
mod launch;
mod limit_cause;
mod location;
mod output;
mod peer;
#[allow(unsafe_code, reason = "what a child does between fork and exec")]
mod prepare;
mod process;
mod program;
mod program_file;
mod restart;
mod runtime;
mod sampled_limits;
mod services;
mod sharing;
mod socket;
#[allow(unsafe_code, reason = "options of sockets that no library reads")]
mod socket_creator;
mod start;
mod state;
mod stream;
mod sync;
mod usage;
mod watch;

/// Starts without supervision, and requests without retries.
pub mod unsupervised {
    pub use crate::child::Stopped;
    pub use crate::client::{Client, OpenConnection};
    pub use crate::config::config_channel;
    pub use crate::http::{HttpRequest, HttpResponse, RequestError, SNAPSHOT_VERSION};
    pub use crate::launch::token;
    pub use crate::location::{Location, listening};
    pub use crate::start::{Started, start};
}

pub use call::{Call, EndpointKind};
pub use capabilities::{Capabilities, Dialect, Offered, ServedContract};
pub use contract_calls::{ContractCall, ContractFuture, ContractRequest};
pub use error::{Diagnosis, Error, ErrorKind, ErrorParts, Failure, Step};
pub use hotbay_protocol::endpoint::of_method as method_endpoint;
pub use hotbay_protocol::variable::STATE_DIR;
pub use launch::{OwnFolder, SweepFolders, allowed, is_allowed, launch_parents};
pub use output::{ObserverRef, ProcessObserver};
pub use process::Process;
pub use program::{ProcessLimits, Program, ProgramCopy};
pub use runtime::{Processes, caller_runtime};
pub use start::{Prepared, prepare};
pub use stream::ItemLines;
pub use usage::{ProcessTable, Usage};
pub use watch::{supervise, supervise_expecting};
