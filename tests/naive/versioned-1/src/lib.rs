//! The first version of a plugin, with strict lints, in edition 2021.
//!
//! Returns its version and the number of calls so far, or panics on request.

#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(unused_qualifications, unused_crate_dependencies, rust_2018_idioms)]
#![warn(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]

use std::panic::panic_any;
use std::sync::atomic::{AtomicU32, Ordering};

use hotbay_plugin::prelude::*;

/// Belongs to the library, not to the plugin: two libraries do not share it.
static CALLS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
struct Versioned {
    health_panics: bool,
}

impl Plugin for Versioned {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        let panics = |place: &str| config.get("panics").is_some_and(|found| found == place);
        assert!(!panics("init"), "out of init");
        let health_panics = panics("health");
        Ok(Self { health_panics })
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match input.as_text()? {
            "panic" => panic!("out of a call"),
            "payload" => panic_any(PanicOnDrop),
            _ => {
                let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(Output::text(format!("version 1, call {calls}")))
            }
        }
    }

    fn health(&self) -> Result<(), PluginError> {
        assert!(!self.health_panics, "out of health");
        Ok(())
    }
}

/// A panic payload that panics again when dropped.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic_any(Self)
    }
}

export_plugin!(Versioned);
