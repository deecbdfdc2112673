//! The crate that a hotbay plugin links: the trait [`Plugin`], the macro [`export_plugin!`], and a
//! stable ABI.
//!
//! A plugin built against version 1.x of this crate runs on every host that uses the same or a
//! later 1.x. The two may be built with different versions of rustc.
//!
//! ```
//! use hotbay_plugin::prelude::*;
//!
//! struct Greet {
//!     greeting: String,
//! }
//!
//! impl Plugin for Greet {
//!     fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
//!         let greeting = config.get("greeting").and_then(|text| text.as_str()).unwrap_or("Hello");
//!         host.info("ready to greet");
//!         Ok(Self { greeting: greeting.to_owned() })
//!     }
//!
//!     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
//!         Ok(Output::text(format!("{}, {}!", self.greeting, input.as_text()?)))
//!     }
//! }
//!
//! # #[cfg(any())]
//! export_plugin!(Greet);
//! # #[cfg(feature = "testing")]
//! # {
//!
//! // In a unit test, with the feature `testing`:
//! let host = hotbay_plugin::testing::FakeHost::new();
//! let plugin = host.start::<Greet>(serde_json::json!({ "greeting": "Good morning" }))?;
//! assert_eq!(plugin.execute(Payload::text("Ada"))?.as_text()?, "Good morning, Ada!");
//! # }
//! # Ok::<(), PluginError>(())
//! ```
//!
//! # What to read next
//!
//! | to | read |
//! |---|---|
//! | implement a plugin | [`Plugin`]: methods, their order and threads |
//! | read input, write output | [`Payload`], [`Output`], [`ContentType`] |
//! | read the configuration | [`Config`] |
//! | return errors | [`PluginError`]; panics become a [`Fault`] |
//! | stop when a call is cancelled | [`CallContext`] |
//! | keep state across a reload | [`Plugin::snapshot`], [`Plugin::restore`], [`Snapshot`] |
//! | log, or use other services of the host | [`HostServices`], and [Logging](#logging) below |
//! | test a plugin | `testing` (feature `testing`) |
//! | build a library | [`export_plugin!`]: allocators, unmapping |
//! | build a program | [`serve_plugin!`] (feature `serve`), and [Programs](#programs) below |
//! | write a plugin in another language | `PROTOCOL.md` in this crate |
//!
//! # Libraries
//!
//! The crate of a plugin has `crate-type = ["cdylib", "rlib"]` and a default feature `export`,
//! which enables the exports of [`export_plugin!`]. `hotbay new` creates such a crate.
//!
//! # Programs
//!
//! With the feature `serve`, on Unix, the same plugin can be a program that a host starts and calls
//! over a local socket. Add a `main.rs` beside the library:
//!
//! ```
//! # #[cfg(any())]
//! hotbay_plugin::serve_plugin!(greet::Greet);
//! # fn main() {}
//! ```
//!
//! [`serve_plugin!`] defines `main`. A panic fails only the current call, as in a library. An abort, a
//! leak or an endless loop affects only the program, which the host can kill. The host cancels a call by
//! closing its connection.
//!
//! # Logging
//!
//! [`HostServices::log`] writes lines to the host's log. With the feature `tracing`, events of the
//! crate `tracing` also reach the host; with the feature `log`, so do records of the crate `log`.
//! They keep their level, target, fields and source location. The host adds the plugin's name and
//! generation, and applies its own filters. Logging requires the permission `log`.
//!
//! - Values keep their types; values recorded with `Display` or `Debug` arrive as text.
//!   Key-values of `log` are dropped.
//! - Spans do not reach the host. An event has its enclosing spans in the field `spans`, such as
//!   `request{id=7}:query{table="users"}`.
//! - A message is truncated at 64 KiB, and so are all fields together. `… (cut)` marks the end.
//! - Lines that are logged while another line is formatted or processed on the same thread are
//!   dropped.
//! - A plugin cannot set its own global subscriber. A subscriber that it sets for a thread keeps
//!   the library mapped until that thread exits.
//! - A plugin that is compiled into the host uses the host's subscriber and logger; these features
//!   do not affect it.

#![deny(unsafe_code)]

pub mod stamp;

#[cfg(all(unix, feature = "tokio"))]
mod async_plugin;
#[cfg(any(feature = "tracing", feature = "log"))]
mod bridge;
#[allow(unsafe_code, reason = "interposes on the allocator and the C library")]
mod census;
#[allow(unsafe_code, reason = "reads pointers that crossed the boundary")]
mod context;
#[cfg(feature = "contracts")]
pub mod contract;
#[allow(unsafe_code, reason = "the C functions of a plugin")]
mod export;
mod fault;
mod panic;
#[allow(unsafe_code, reason = "owns bytes that crossed the boundary")]
mod payload;
mod plugin;
#[allow(unsafe_code, reason = "derives the layout of the module")]
mod root;
#[allow(unsafe_code, reason = "starts a thread without std")]
#[cfg(all(unix, feature = "tokio"))]
mod runtime;
#[doc(hidden)]
pub mod serve;
mod services;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod text;
#[cfg(all(unix, feature = "wire"))]
#[doc(hidden)]
pub mod wire;

#[cfg(all(unix, feature = "tokio"))]
pub use async_plugin::{Async, AsyncContext, AsyncPlugin};
pub use context::{CallContext, TraceContext};
pub use fault::{Fault, PluginError};
#[cfg(feature = "contracts")]
pub use hotbay_macros::{contract, data};
pub use level::API_VERSION;
pub use payload::{ContentType, Output, OwnedPayload, Payload};
pub use plugin::{Config, Plugin, Snapshot};
pub use services::{HostServices, Level, ServiceError};

/// The version of the plugin API, with the additions of each version.
///
/// A plugin runs on every host with the same major version and at least the same minor version.
pub mod level {
    /// The version of the plugin API, which is the version of this crate.
    ///
    /// - 1.0: the initial version.
    /// - 1.1: typed contracts.
    /// - 1.2: async plugins, and calls of contracts of the host and of other plugins.
    pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");
}

/// The imports that most plugins need, for `use hotbay_plugin::prelude::*`.
pub mod prelude {
    pub use crate::{
        CallContext, Config, ContentType, HostServices, Level, Output, Payload, Plugin,
        PluginError, Snapshot, export_plugin, serve_plugin,
    };
}

/// The ABI, for the host and the expansion of [`export_plugin!`]. Not for plugin authors.
#[doc(hidden)]
pub mod abi {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub use crate::census::interposers;
    pub use crate::census::{CALLBACKS, Callback, CountingAllocator, init_census};
    pub use crate::context::{Bounds, CANCEL_INTERVAL, RawContext};
    #[cfg(feature = "contracts")]
    pub use crate::contract::{Contract, internal as contract};
    pub use crate::export::{Exports, PanicRecords, into_instance};
    pub use crate::payload::{Media, OutputSlot, RawBuffer, RawPayload};
    pub use crate::root::{
        ContractSet, ContractTables, NoContracts, PluginRoot, PluginRootRef, RawCensus, RawFault,
        RawInstance, RawMeasure, RawSnapshot, RawStart, code,
    };
    pub use crate::services::{
        MAX_LINE_BYTES, RawRecord, RawServices, RawText, Record, ServiceHost, code as service_code,
    };
    pub use abi_stable;
}
