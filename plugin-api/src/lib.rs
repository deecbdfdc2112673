//! What a hotbay plugin links: one trait, one macro, and a promise.
//!
//! **The promise:** a library built against version 1 of this crate, by any compiler, runs on
//! every host whose own version of this crate is of the same major version and at least the
//! same minor version. What it exports is C structs and functions; they grow at their end.
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
//! # fn main() {}
//! ```
//!
//! The crate is a `crate-type = ["cdylib", "rlib"]` with a default feature `export`, behind
//! which [`export_plugin!`] puts everything that makes the library a plugin.
//!
//! # Programs
//!
//! With the feature `serve`, on Unix, the same plugin is also a program of its own, which a host
//! starts and calls over a local socket. The crate gets a `main.rs` beside its library:
//!
//! ```
//! # #[cfg(any())]
//! hotbay_plugin::serve_plugin!(greet::Greet);
//! # fn main() {}
//! ```
//!
//! It needs nothing else: [`serve_plugin!`] defines `main`. A panic still ends one call only, and
//! what goes wrong beyond that (an abort, a leak, an endless loop) ends with the program. A call
//! is cancelled when the host hangs up. `PROTOCOL.md` tells what goes over the socket, for
//! authors in other languages too.
//!
//! # Logging
//!
//! [`HostServices::log`] writes lines. With the feature `tracing`, events of the crate `tracing`
//! go to the host too, and with the feature `log` records of the crate `log`: with their level,
//! target, fields and place, from [`Plugin::init`] on. The host adds the plugin's name and its
//! generation, and applies its own filters. All of it needs the permission `log`.
//!
//! - Values keep their types; what is only formatted arrives as text. Key-values of `log` stay
//!   behind.
//! - Spans do not reach the host; an event tells those that it happens in, in a field `spans`
//!   such as `request{id=7}:query{table="users"}`.
//! - A message, and the fields together, are cut at 64 KiB, which is told by `… (cut)`.
//! - What is logged while another line is formatted or heard on the same thread is left out.
//! - The library's listener is taken: a subscriber of the plugin's own cannot be the global
//!   default, and one that is set for a thread keeps the library mapped until that thread ends.
//! - A plugin that is compiled into the host shares the host's listeners, and these features
//!   change nothing for it.

#![deny(unsafe_code)]

pub mod level;
pub mod stamp;

#[cfg(any(feature = "tracing", feature = "log"))]
mod bridge;
#[allow(unsafe_code, reason = "counts what the libraries of a plugin allocate and start")]
mod census;
mod config;
#[allow(unsafe_code, reason = "reads pointers that crossed the boundary")]
mod context;
#[allow(unsafe_code, reason = "the functions on the boundary")]
mod export;
mod fault;
#[allow(unsafe_code, reason = "asks the unwinder")]
mod frames;
mod panic;
#[allow(unsafe_code, reason = "owns bytes that crossed the boundary")]
mod payload;
mod plugin;
#[allow(unsafe_code, reason = "derives the layout of the module")]
mod root;
#[doc(hidden)]
pub mod serve;
mod services;
mod snapshot;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod text;
#[cfg(all(unix, feature = "wire"))]
#[doc(hidden)]
pub mod wire;

pub use config::Config;
pub use context::{CallContext, TraceContext};
pub use fault::{Fault, PluginError};
pub use level::API_VERSION;
pub use payload::{ContentType, Output, Payload};
pub use plugin::Plugin;
pub use services::{HostServices, Level, ServiceError};
pub use snapshot::Snapshot;

/// What a plugin's author writes `use …::*` for.
pub mod prelude {
    pub use crate::{
        CallContext, Config, ContentType, HostServices, Level, Output, Payload, Plugin,
        PluginError, Snapshot, export_plugin, serve_plugin,
    };
}

/// The boundary itself, for the host and for what [`export_plugin!`] writes. Not for authors.
#[doc(hidden)]
pub mod abi {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    pub use crate::census::interposers;
    pub use crate::census::{CALLBACKS, Callback, CountingAllocator, init_census};
    pub use crate::context::{Bounds, RawContext};
    pub use crate::export::{Exports, PanicRecords, into_instance};
    pub use crate::payload::{Media, RawBuffer, RawPayload};
    pub use crate::root::{
        PluginRoot, PluginRootRef, RawCensus, RawFault, RawInstance, RawSnapshot, RawStart, code,
    };
    pub use crate::services::{MAX_LINE_BYTES, Record, code as service_code};
    pub use crate::services::{RawRecord, RawServices, RawText, ServiceHost};
    pub use abi_stable;
}
