//! Counters of a plugin's reply cache; zero if it has none.

use std::sync::atomic::AtomicU64;

/// Counters of a reply cache.
#[derive(Debug, Default)]
pub(crate) struct CacheMeter {
    /// Calls answered from the cache.
    pub(crate) hits: AtomicU64,
    /// Lookups without a result.
    pub(crate) misses: AtomicU64,
    /// Bytes held now.
    pub(crate) bytes: AtomicU64,
}
