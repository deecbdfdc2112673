//! A plugin host: loads plugins into a running program, keeps the program alive when they fail, and
//! replaces them with newer builds while calls are in flight.
//!
//! A plugin is a shared library, a program in any language, or a type compiled into this
//! program. Callers use all of them through the same [`PluginHandle`].
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
//! # Where to go next
//!
//! - [`Host::builder`] configures a host: plugin directories, [limits](HostLimits),
//!   [quarantine](Quarantine), [layers](Layer), permissions.
//! - [`Host::load_all`] loads all plugins in the plugin directories, [`Host::load_with`] loads one
//!   with its own name and config, [`Host::register`] adds one that is compiled in, and
//!   [`Host::create`] creates one with a factory.
//! - [`HostBuilder::hot_reload`] and [`Host::reload`] replace builds; [`Host::events`] reports what
//!   happened; [`Host::list`] and [`Host::stats`] return snapshots.
//! - [`Error`] has a [kind](ErrorKind), the [step](LoadStep) of a load that failed, and a hint.
//! - Plugins are written with the crate [`hotbay_plugin`].
//!
//! # Which call to use
//!
//! | you need | use | runs on |
//! |---|---|---|
//! | the fastest call, and your thread may block | [`PluginHandle::call`] | your thread |
//! | deadlines that always hold, a bounded queue, or `async` | [`PluginHandle::execute`] | a worker of the plugin |
//! | several calls of the same generation | [`PluginHandle::pin`] | your thread |
//! | the output of one plugin as the input of the next | [`Host::pipeline`] | workers |
//! | a stream of requests through one or more plugins | [`Pipeline::run_many`] | workers, in chunks |
//! | any plugin that provides a contract, with failover | [`Host::providers`], [`Host::providers_of`] | the same as a single call |
//! | a `tower` service, with its middleware | feature `tower`: a [`PluginHandle`] is a `Service` | a worker |
//!
//! # Features
//!
//! The first three are enabled by default. Without default features, `hotbay` compiles about half as
//! many crates.
//!
//! - `process`: process plugins (Unix only).
//! - `schema`: configs and inputs are validated against JSON Schemas. Without it, a plugin that has a
//!   schema is refused.
//! - `watch`: the operating system notifies the host of changed files. Without it, hot reload polls.
//! - `conformance`: `inspect::check_program`, which checks programs against the protocol.
//! - `metrics`: [`metrics::Exporter`], for the `metrics` facade.
//! - `serde`: events implement `Serialize`.
//! - `tower`: [`PluginHandle`] and [`Pipeline`] implement `tower_service::Service`.
//!
//! # What the host cannot contain
//!
//! A panic in a plugin is returned to its caller as an error. A plugin inside this process can still
//! end the process: by a stack overflow, a second panic while unwinding, a failed allocation,
//! `abort`, `exit`, or undefined behavior. So can the initializers of a library, which run when it
//! is opened. A process plugin cannot.

#![deny(unsafe_code)]

mod artifact;
#[allow(unsafe_code, reason = "plugins inside this process; see the invariants there")]
mod boundary;
mod call;
mod config;
mod contracts;
mod error;
mod event;
mod generation;
mod handle;
mod host;
mod id;
pub mod inspect;
mod loader;
mod logs;
pub mod metrics;
mod middleware;
mod panic;
mod pipeline;
mod providers;
#[cfg(feature = "runner")]
#[doc(hidden)]
pub mod runner;
mod signatures;
mod slot;
mod sync;
mod watch;
mod worker;

/// A pool of threads for closures of the application.
pub mod pool {
    pub use crate::worker::{
        Outcome, PoolLimits, Stopped, SubmitError, SubmitErrorKind, TaskError, TaskId, TaskTicket,
        WorkerPool,
    };
}

/// Entries of the fuzz targets.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz {
    /// Probes the bytes of a library.
    pub fn probe(library: &[u8]) {
        let _ = crate::boundary::probe::probe(library);
        let _ = crate::boundary::probe::exports(library);
    }
}

/// The content of `plugin.json`.
pub mod manifest {
    pub use hotbay_manifest::{
        ConfigSchema, Digest, Handover, InvalidDigest, Isolation, Kind, Limits, Manifest,
        ManifestError, NetRule, Preset, Provided, Sandbox, SandboxLimits, SandboxRule, SocketType,
        Unload,
    };
}

/// The confinement of programs: what the host requires, and what this machine enforces.
pub mod confinement {
    pub use hotbay_sandbox::{Confinement, Kernel, NoNamespaces, RuleReport, RuleStatus};

    pub use crate::config::ConfinementPolicy;
}

/// Typed contracts: traits that plugins implement, and the ways to call them.
///
/// [`Host::contract`](crate::Host::contract) returns a [`Handle`](contract::Handle), which
/// implements the contract's trait and calls on this thread. [`Proxy::pin`](contract::Proxy::pin) calls
/// one build, [`Proxy::pooled`](contract::Proxy::pooled) on the plugin's workers, and
/// [`Proxy::with_timeout`](contract::Proxy::with_timeout) and others set options. See
/// [`hotbay_plugin::contract`](mod@hotbay_plugin::contract) for
/// how to declare one.
pub mod contract {
    pub use hotbay_plugin::contract::{
        Binding, CallError, CallErrorKind, Changes, Contract, ContractText, ContractVersion, Data,
        Impact, Incompatible, InvalidText, Json, MethodChange, MethodText, Proxy, Stream,
        Transport, bind, compare,
    };

    pub use crate::handle::{DirectTransport, PinnedTransport, PooledTransport};
    pub use crate::host::Serves;
    pub use crate::providers::ProvidersTransport;

    /// A contract of a plugin, which implements the contract's trait.
    pub type Handle<C> = Proxy<C, DirectTransport>;

    /// A contract of any plugin that serves it, which implements the contract's trait.
    pub type Provided<C> = Proxy<C, ProvidersTransport>;
}

pub use call::{Reply, Request};
pub use config::{HostLimits, Quarantine};
pub use error::{Error, ErrorKind, LoadStep, Result};
pub use event::{Events, HostEvent, QuarantineReason};
pub use handle::{Execute, Pinned, PluginHandle};
#[cfg(feature = "config-file")]
pub use host::{ConfigChanges, ConfigFile, ConfigValue};
pub use host::{
    Discovered, Discovery, Host, HostBuilder, LoadReport, LoadedPlugin, RefusedPlugin, Reloaded,
    RetainedLibrary, UnloadReport,
};
#[cfg(feature = "config-file")]
pub use hotbay_manifest::Origin as ConfigOrigin;
pub use id::{GenerationId, InvalidName, PluginName};
pub use loader::LoadOptions;
pub use manifest::{Manifest, ManifestError};
pub use metrics::{PluginInfo, PluginState, ProcessUsage};
pub use middleware::{Call, Layer, Next, ResponseCache};
pub use pipeline::{Completed, Pipeline, PipelineStep, RunMany, RunOptions};
pub use providers::{OnFailure, Preference, Providers};

pub use signatures::{SignaturePolicy, SignatureStatus, SignedBy, TrustedKey};
pub use slot::Method;
pub use tokio_util::sync::CancellationToken;

pub use hotbay_plugin::{
    self, CallContext, ContentType, Fault, Output, Payload, Plugin, PluginError, Snapshot,
    TraceContext,
};
