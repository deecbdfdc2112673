//! The host's services for one generation of a plugin: its log, and panics on its threads.

#[cfg(all(unix, feature = "process"))]
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use hotbay_plugin::abi::Record;
use hotbay_plugin::contract::{CallError, CallErrorKind, ContractText};
use hotbay_plugin::{Fault, ServiceError, text};

use super::candidate::Candidate;
use super::context::LoaderContext;
use crate::boundary::services::Services;
use crate::call::{BoundContract, Caller, ContractCalls, crossing};
use crate::event::HostEvent;
use crate::id::{GenerationId, PluginName};
use crate::logs::{HOST_TARGET, Line, LineDecision, RateLimiter};
use crate::slot::Slot;
use crate::sync::lock;

/// The permission to write to the host's log.
const LOG: &str = "log";

#[derive(Debug)]
pub(super) struct PluginServices {
    name: PluginName,
    pub(super) contracts: CallableContracts,
    generation: GenerationId,
    may_log: bool,
    limiter: Mutex<RateLimiter>,
    max_lines_per_second: u32,
    slot: Weak<Slot>,
}

impl PluginServices {
    pub(super) fn new(
        context: &LoaderContext,
        candidate: &Candidate,
        generation: GenerationId,
        slot: &Arc<Slot>,
    ) -> Self {
        let max_lines_per_second = context.limits.max_log_lines_per_second;
        let (name, granted) = (candidate.manifest.name(), &candidate.granted);
        let caller = Arc::new(Caller {
            name: name.clone(),
            granted: granted.clone(),
            withheld: candidate.manifest.permissions().difference(granted).cloned().collect(),
            threads: Arc::default(),
        });
        Self {
            name: name.clone(),
            contracts: CallableContracts::new(caller, Arc::clone(&context.contract_calls)),
            generation,
            may_log: granted.contains(LOG),
            limiter: Mutex::new(RateLimiter::new(max_lines_per_second)),
            max_lines_per_second,
            slot: Arc::downgrade(slot),
        }
    }

    /// Writes a line, whether or not the plugin has the permission to log.
    pub(super) fn write(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        // A line without a subscriber does not count.
        let Some(line) = Line::enabled(&self.name, record) else { return Ok(()) };
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = limiter.check(Instant::now());
        drop(limiter);
        match decision {
            LineDecision::Pass => {}
            LineDecision::PassAndReport { dropped } => self.report_dropped_lines(dropped),
            LineDecision::Drop => {
                self.count_dropped_line();
                return Err(ServiceError::Unavailable);
            }
        }
        line.emit(&self.name, self.generation);
        Ok(())
    }

    fn count_dropped_line(&self) {
        if let Some(slot) = self.slot.upgrade() {
            slot.counters.log_lines_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn report_dropped_lines(&self, dropped: NonZeroU64) {
        let (plugin, generation) = (&self.name, self.generation.get());
        let max = self.max_lines_per_second;
        let lines = match dropped.get() {
            1 => "1 line was".to_owned(),
            _ => format!("{dropped} lines were"),
        };
        tracing::warn!(
            target: HOST_TARGET,
            %plugin,
            generation,
            dropped,
            "plugin `{plugin}` logged faster than {max} lines/s; {lines} dropped"
        );
    }
}

impl Services for PluginServices {
    fn may_log(&self) -> bool {
        self.may_log
    }

    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        if self.may_log { self.write(record) } else { Err(ServiceError::Denied) }
    }

    fn bind_contract(&self, contract: &str, plugin: Option<&str>) -> Result<u64, CallError> {
        self.contracts.bind(contract, plugin)
    }

    fn bound_contract(&self, number: u64) -> Result<Arc<dyn BoundContract>, CallError> {
        self.contracts.get(number)
    }

    fn thread_panicked(&self, message: &str, location: &str) {
        let location = (!location.is_empty())
            .then(|| text::cut(location, text::MAX_LOCATION_BYTES).into_owned());
        let message = text::cut(message, text::MAX_MESSAGE_BYTES).into_owned();
        let fault = Fault::new(message, location, Vec::new());
        let Some(slot) = self.slot.upgrade() else {
            return;
        };
        slot.counters.faults.fetch_add(1, Ordering::Relaxed);
        slot.health.record_fault(self.generation.get(), false);
        slot.health.emit(HostEvent::Faulted {
            plugin: self.name.clone(),
            generation: self.generation,
            fault,
            own_thread: true,
        });
    }
}

/// The contracts that a plugin may call, and those that it has bound.
#[derive(Debug)]
pub(super) struct CallableContracts {
    pub(super) caller: Arc<Caller>,
    pub(super) calls: Arc<dyn ContractCalls>,
    bound: Mutex<Vec<Bound>>,
    /// The texts that a program has checked last, by contract.
    #[cfg(all(unix, feature = "process"))]
    pub(super) checked: Arc<Mutex<BTreeMap<String, ContractText>>>,
}

/// A contract that a plugin has bound.
struct Bound {
    text: String,
    plugin: Option<String>,
    contract: Arc<dyn BoundContract>,
}

/// Maximum number of contracts that a plugin can bind.
const MAX_BOUND: usize = 1024;

impl CallableContracts {
    fn new(caller: Arc<Caller>, calls: Arc<dyn ContractCalls>) -> Self {
        Self {
            caller,
            calls,
            bound: Mutex::default(),
            #[cfg(all(unix, feature = "process"))]
            checked: Arc::default(),
        }
    }

    /// Finds the provider of a contract, and returns a number for the calls.
    fn bind(&self, text: &str, plugin: Option<&str>) -> Result<u64, CallError> {
        let contract = parse_one(text)?;
        let contract = self.calls.bind(&self.caller, contract, plugin).map_err(crossing)?;
        let mut bound = lock(&self.bound);
        let is_same = |one: &Bound| one.text == text && one.plugin.as_deref() == plugin;
        let number = match bound.iter().position(is_same) {
            Some(number) => {
                bound[number].contract = contract;
                number
            }
            None if bound.len() >= MAX_BOUND => {
                let message = format!("the plugin has already bound {MAX_BOUND} contracts");
                let hint = "keep the value that `contract` returned, and call it again";
                return Err(CallError::new(CallErrorKind::Overloaded, message).with_hint(hint));
            }
            None => {
                let plugin = plugin.map(str::to_owned);
                bound.push(Bound { text: text.to_owned(), plugin, contract });
                bound.len() - 1
            }
        };
        Ok(number as u64)
    }

    fn get(&self, number: u64) -> Result<Arc<dyn BoundContract>, CallError> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let bound = lock(&self.bound);
        let contract = bound.get(number).map(|bound| Arc::clone(&bound.contract));
        contract.ok_or_else(|| {
            let message = "the plugin calls a contract that it has not bound";
            CallError::new(CallErrorKind::Other, message)
        })
    }
}

/// Parses the text of one contract.
pub(super) fn parse_one(text: &str) -> Result<ContractText, CallError> {
    let invalid = |reason: String| {
        let message = format!("invalid text of a contract: {reason}");
        CallError::new(CallErrorKind::InvalidInput, message)
    };
    let mut contracts = ContractText::parse(text).map_err(|error| invalid(error.to_string()))?;
    match (contracts.pop(), contracts.len()) {
        (Some(contract), 0) => Ok(contract),
        _ => Err(invalid("expected one contract".to_owned())),
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl Drop for PluginServices {
    /// Reports the lines that were dropped last.
    fn drop(&mut self) {
        let limiter = self.limiter.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(dropped) = limiter.take_unreported() {
            self.report_dropped_lines(dropped);
        }
    }
}
