//! The host's services for one generation of a plugin: its log, and panics on its threads.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use hotbay_plugin::abi::Record;
use hotbay_plugin::{Fault, ServiceError, text};

use super::candidate::Candidate;
use crate::boundary::services::Services;
use crate::event::HostEvent;
use crate::id::{GenerationId, PluginName};
use crate::logs::{HOST_TARGET, Line, LineDecision, RateLimiter};
use crate::slot::Slot;

/// The permission to write to the host's log.
const LOG: &str = "log";

#[derive(Debug)]
pub(super) struct PluginServices {
    name: PluginName,
    generation: GenerationId,
    may_log: bool,
    limiter: Mutex<RateLimiter>,
    max_lines_per_second: u32,
    slot: Weak<Slot>,
}

impl PluginServices {
    pub(super) fn new(
        candidate: &Candidate,
        generation: GenerationId,
        slot: &Arc<Slot>,
        max_lines_per_second: u32,
    ) -> Self {
        Self {
            name: candidate.manifest.name().clone(),
            generation,
            may_log: candidate.granted.contains(LOG),
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

impl Drop for PluginServices {
    /// Reports the lines that were dropped last.
    fn drop(&mut self) {
        let limiter = self.limiter.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(dropped) = limiter.take_unreported() {
            self.report_dropped_lines(dropped);
        }
    }
}
