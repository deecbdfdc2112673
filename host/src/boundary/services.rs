//! The host's side of the services: from a token to whoever answers for that plugin.
//!
//! Plugins may call at any time, even after they were stopped, so the functions look the token
//! up; a token that is not there any more is `Closed`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use hotbay_plugin::abi::{RawServices, Record, ServiceHost};
use hotbay_plugin::{Level, ServiceError};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

/// Answers for one generation of one plugin.
pub(crate) trait Services: Send + Sync {
    /// Whether the plugin may log; for good, as it is asked once.
    fn may_log(&self) -> bool;
    /// Writes a log line.
    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError>;
    /// Hears of a panic on a thread that the plugin started.
    fn thread_panicked(&self, message: &str, location: &str);
}

type Table = HashMap<u64, Arc<dyn Services>>;

/// By token. One table for all hosts: a plugin has nothing but its token to be found by.
static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
/// Set in tokens of plugins that may not log: they are told so without a look at the table,
/// which is asked for each line.
const SILENT: u64 = 1 << 63;

/// A token that is answered for; once dropped, the plugin hears `Closed`.
pub(crate) struct Registration {
    token: u64,
}

impl Registration {
    /// Answers for a new token with `services`.
    pub(crate) fn new(services: Arc<dyn Services>) -> Self {
        let silent = if services.may_log() { 0 } else { SILENT };
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed) | silent;
        TABLE.write().unwrap_or_else(PoisonError::into_inner).insert(token, services);
        Self { token }
    }

    /// What the plugin is given.
    pub(crate) fn raw(&self) -> RawServices {
        RawServices::of::<ByToken>(self.token)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let gone = TABLE.write().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
        // Not under the lock: services have last words, and who hears them may call a plugin.
        drop(gone);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("token", &self.token).finish()
    }
}

struct ByToken;

impl ServiceHost for ByToken {
    fn log(token: u64, record: &Record<'_>) -> Result<(), ServiceError> {
        services(token)?.log(record)
    }

    fn log_level(token: u64) -> u32 {
        if token & SILENT != 0 {
            return 0;
        }
        enabled_level()
    }

    fn thread_panicked(token: u64, message: &str, location: &str) -> Result<(), ServiceError> {
        services(token)?.thread_panicked(message, location);
        Ok(())
    }
}

/// Cloned out of the table, so that no lock is held while the service works.
fn services(token: u64) -> Result<Arc<dyn Services>, ServiceError> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    table.get(&token).cloned().ok_or(ServiceError::Closed)
}

/// The least level that whoever listens to the host's log wants now; 0 for none.
pub(crate) fn enabled_level() -> u32 {
    match LevelFilter::current().min(STATIC_MAX_LEVEL).into_level() {
        None => 0,
        Some(tracing::Level::ERROR) => Level::Error as u32,
        Some(tracing::Level::WARN) => Level::Warn as u32,
        Some(tracing::Level::INFO) => Level::Info as u32,
        Some(tracing::Level::DEBUG) => Level::Debug as u32,
        Some(tracing::Level::TRACE) => Level::Trace as u32,
    }
}
