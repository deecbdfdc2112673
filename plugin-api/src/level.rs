//! The version of the plugin API, with the additions of each version.
//!
//! A plugin runs on every host with the same major version and at least the same minor version.

/// The version of the plugin API, which is the version of this crate.
///
/// - 1.0: the initial version.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");
