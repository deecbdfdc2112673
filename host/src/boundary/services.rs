//! The host's side of the services: finds the services of a plugin by its token.
//!
//! Plugins may call at any time, even after they were stopped, so the functions look the token up;
//! an unknown token is `Closed`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use hotbay_plugin::abi::{RawServices, Record, ServiceHost};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::contract::internal::{
    CallFailure, CancelCall, Completer, ContractHost, OutgoingCall, RawHostFunctions,
};
use hotbay_plugin::{Level, Output, ServiceError};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

use super::outgoing::{StartedCalls, closed};
use crate::call::BoundContract;

/// The services for one generation of one plugin.
pub(crate) trait Services: Send + Sync {
    /// Returns whether the plugin may log; called once.
    fn may_log(&self) -> bool;
    /// Writes a log line.
    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError>;
    /// Reports a panic on a thread that the plugin started.
    fn thread_panicked(&self, message: &str, location: &str);
    /// Finds the provider of a contract, and returns a number for the calls.
    fn bind_contract(&self, contract: &str, plugin: Option<&str>) -> Result<u64, CallError>;
    /// Returns the contract with this number.
    fn bound_contract(&self, number: u64) -> Result<Arc<dyn BoundContract>, CallError>;
}

/// What a plugin may use, and its calls that are not completed.
#[derive(Clone)]
struct Registered {
    services: Arc<dyn Services>,
    started: Arc<StartedCalls>,
}

type ServiceTable = HashMap<u64, Registered>;

/// Services by token. One table for all hosts, since a plugin is identified only by its token.
static TABLE: LazyLock<RwLock<ServiceTable>> = LazyLock::new(RwLock::default);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
/// Set in tokens of plugins that may not log, so that the log level of each line needs no lookup in
/// the table.
const SILENT: u64 = 1 << 63;

/// A registered token; once dropped, the plugin's calls return `Closed`.
pub(crate) struct Registration {
    token: u64,
}

impl Registration {
    /// Registers `services` under a new token.
    pub(crate) fn new(services: Arc<dyn Services>) -> Self {
        let flag = if services.may_log() { 0 } else { SILENT };
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed) | flag;
        let registered = Registered { services, started: Arc::default() };
        TABLE.write().unwrap_or_else(PoisonError::into_inner).insert(token, registered);
        Self { token }
    }

    /// Returns the services as the plugin receives them.
    pub(crate) fn raw(&self) -> RawServices {
        RawServices::of::<ByToken>(self.token)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let removed = TABLE.write().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
        // Not under the lock: services log when they are dropped, and a subscriber may call a
        // plugin.
        if let Some(removed) = removed {
            removed.started.close();
        }
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
        find(token)?.services.log(record)
    }

    fn log_level(token: u64) -> u32 {
        if token & SILENT != 0 {
            return 0;
        }
        enabled_level()
    }

    fn thread_panicked(token: u64, message: &str, location: &str) -> Result<(), ServiceError> {
        find(token)?.services.thread_panicked(message, location);
        Ok(())
    }
}

/// The functions by which plugins in this process call contracts.
static CONTRACT_FUNCTIONS: RawHostFunctions = RawHostFunctions::of::<ByToken>();

/// Returns the functions by which plugins in this process call contracts.
pub(crate) fn contract_functions() -> &'static RawHostFunctions {
    &CONTRACT_FUNCTIONS
}

impl ContractHost for ByToken {
    fn bind(token: u64, contract: &str, plugin: Option<&str>) -> Result<u64, CallError> {
        let registered = find(token).map_err(|_| closed())?;
        registered.services.bind_contract(contract, plugin)
    }

    fn call(token: u64, call: &OutgoingCall<'_>) -> Result<Output, CallFailure> {
        let registered = find(token).map_err(|_| closed())?;
        registered.services.bound_contract(call.target)?.call(call)
    }

    fn start(token: u64, call: &OutgoingCall<'_>, completer: Completer) -> Box<dyn CancelCall> {
        let Ok(Registered { services, started }) = find(token) else {
            completer.complete(Err(closed().into()));
            return Box::new(Completed);
        };
        let start = || services.bound_contract(call.target)?.start(call);
        Box::new(started.start(completer, start))
    }
}

/// A call that was completed when it was started.
struct Completed;

impl CancelCall for Completed {
    fn cancel(&self) {}
}

/// Returns a clone, so that no lock is held while the service runs.
fn find(token: u64) -> Result<Registered, ServiceError> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    table.get(&token).cloned().ok_or(ServiceError::Closed)
}

/// Returns the least severe level that a subscriber of the host's log is interested in; 0 if none.
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
