//! A plugin host: loads plugins into a running program, keeps the program alive whatever they
//! do, and never lets a caller see which kind of plugin it calls.
//!
//! A **call** goes down one corridor and back: handle, layers, slot (where it leases the
//! current generation), generation, and over the boundary into the plugin. A **load** walks a
//! row of rooms once: a folder's manifest, a private copy of the library, its digest, its
//! stamp, the mapping, the layout of its root module, its config, `init`, `health`; then the
//! generation is put into the slot. Every step before that can be taken back.
//!
//! ```
//! use hotbay::{Host, Output, Request};
//!
//! let host = Host::builder()
//!     .register_fn("shout", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())))
//!     .build()?;
//! let shout = host.plugin("shout")?;
//! assert_eq!(shout.call(Request::text("hello"))?.as_text()?, "HELLO");
//! # Ok::<(), hotbay::Error>(())
//! ```
//!
//! # Features
//!
//! None is on by default. `metrics`: [`metrics::Exporter`] and the facade of that name. `tower`:
//! a [`PluginHandle`] and a [`Pipeline`] are a `tower_service::Service`. `cli`: the command
//! `hotbay`.
//!
//! # What cannot be contained
//!
//! A panic in a plugin is an error to its caller and nothing more. What ends the program all
//! the same, when code inside it does it: a stack overflow, a second panic while unwinding, a
//! failed allocation, `abort`, `exit`, and writing where it should not.

#![deny(unsafe_code)]

mod artifact;
#[allow(unsafe_code, reason = "plugins inside this process; see the invariants there")]
mod boundary;
mod call;
mod config;
mod conformance;
mod error;
mod event;
mod generation;
mod handle;
mod host;
mod id;
mod info;
pub mod inspect;
mod layers;
pub mod manifest;
pub mod metrics;
mod panic;
mod pipeline;
pub mod pool;
mod providers;
mod reload;
mod setters;
mod slot;
#[cfg(unix)]
mod supervisor;
mod sync;

pub use call::{Reply, Request};
pub use config::{HostLimits, Quarantine};
pub use error::manifest::ManifestError;
pub use error::{Error, ErrorKind, LoadStep, Result};
pub use event::{Events, HostEvent, QuarantineReason};
pub use handle::{Execute, Pinned, PluginHandle};
pub use host::{
    Discovered, Discovery, Host, HostBuilder, LoadReport, LoadedPlugin, RefusedPlugin, Reloaded,
    RetainedLibrary, UnloadReport,
};
pub use id::{GenerationId, InvalidName, PluginName};
pub use info::{PluginInfo, PluginState};
pub use layers::{Call, Layer, Next, ResponseCache};
pub use manifest::Manifest;
pub use pipeline::{Completed, Pipeline, PipelineStep, RunMany, RunOptions};
pub use providers::{OnFailure, Preference, Providers};
pub use reload::LoadOptions;

pub use slot::Method;
pub use tokio_util::sync::CancellationToken;

pub use hotbay_plugin::{
    self, CallContext, ContentType, Fault, Output, Payload, Plugin, PluginError, Snapshot,
    TraceContext,
};
