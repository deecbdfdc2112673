//! The host's side of the services: from a token to whoever answers for that plugin.
//!
//! Plugins may call at any time, even after they were stopped, so the functions look the token
//! up; a token that is not there any more is `Closed`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use hotbay_plugin::abi::{RawServices, ServiceHost};
use hotbay_plugin::{Level, ServiceError};

/// Answers for one generation of one plugin.
pub(crate) trait Services: Send + Sync {
    /// Writes a log line.
    fn log(&self, level: Level, message: &str) -> Result<(), ServiceError>;
    /// Hears of a panic on a thread that the plugin started.
    fn thread_panicked(&self, message: &str, location: &str);
}

type Table = HashMap<u64, Arc<dyn Services>>;

/// By token. One table for all hosts: a plugin has nothing but its token to be found by.
static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A token that is answered for; once dropped, the plugin hears `Closed`.
pub(crate) struct Registration {
    token: u64,
}

impl Registration {
    /// Answers for a new token with `services`.
    pub(crate) fn new(services: Arc<dyn Services>) -> Self {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
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
        TABLE.write().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("token", &self.token).finish()
    }
}

struct ByToken;

impl ServiceHost for ByToken {
    fn log(token: u64, level: Level, message: &str) -> Result<(), ServiceError> {
        services(token)?.log(level, message)
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
