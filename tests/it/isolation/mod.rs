//! Libraries that run in their own process.

mod crashes;
mod start;

use hotbay::{PluginHandle, Request};

/// Returns the id of the process that runs the plugin.
fn process_of(plugin: &PluginHandle) -> Option<u32> {
    plugin.call(Request::text("pid")).ok()?.json().ok()
}
