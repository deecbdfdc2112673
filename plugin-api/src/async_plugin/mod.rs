//! Plugins whose calls are futures.

mod context;
#[allow(unsafe_code, reason = "the C function of an async plugin")]
mod exports;
mod plugin;

pub use context::AsyncContext;
pub use exports::Async;
pub use plugin::AsyncPlugin;
