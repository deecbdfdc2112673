//! The second version of a plugin, with strict lints, in edition 2024.
//!
//! Returns its version and the number of calls so far. Its memory is not counted.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(unused_qualifications, unused_crate_dependencies, rust_2018_idioms)]
#![warn(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]

use std::sync::atomic::{AtomicU32, Ordering};

use hotbay_plugin::prelude::*;

/// Belongs to the library, not to the plugin: two libraries do not share it.
static CALLS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
struct Versioned;

impl Plugin for Versioned {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Output::text(format!("version 2, call {calls}")))
    }
}

export_plugin!(Versioned, allocator = uncounted);
