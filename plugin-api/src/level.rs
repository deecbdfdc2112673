//! The level of the plugin API, named by what each version added.
//! A plugin runs on every host of its major version whose minor version is at least its own.

/// The version of the plugin API that this crate offers, which is the version of the crate.
///
/// - 1.0: everything there is.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");
