//! What is counted of a plugin's cache of replies; zero where it has none.

use std::sync::atomic::AtomicU64;

/// What is counted of a cache.
#[derive(Debug, Default)]
pub(crate) struct CacheMeter {
    /// Calls that were answered from it.
    pub(crate) hits: AtomicU64,
    /// Calls that were looked for and not found.
    pub(crate) misses: AtomicU64,
    /// Bytes that it holds now.
    pub(crate) bytes: AtomicU64,
}
