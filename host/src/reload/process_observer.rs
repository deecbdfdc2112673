//! Reports what happens to a plugin's process: to its log, to the health of its plugin, and as
//! events.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::Record;
use hotbay_process::{Diagnosis, ProcessObserver};

use super::candidate::Candidate;
use super::services::PluginServices;
use crate::boundary::services::{Services as _, enabled_level};
use crate::event::HostEvent;
use crate::id::{GenerationId, PluginName};
use crate::slot::Slot;

pub(super) struct PluginProcessObserver {
    services: PluginServices,
    name: PluginName,
    generation: GenerationId,
    slot: Weak<Slot>,
}

impl PluginProcessObserver {
    pub(super) fn new(
        candidate: &Candidate,
        generation: GenerationId,
        slot: &Arc<Slot>,
        max_lines_per_second: u32,
    ) -> Self {
        Self {
            services: PluginServices::new(candidate, generation, slot, max_lines_per_second),
            name: candidate.manifest.name().clone(),
            generation,
            slot: Arc::downgrade(slot),
        }
    }
}

impl ProcessObserver for PluginProcessObserver {
    fn wrote(&self, record: &Record<'_>) {
        // The service counts dropped lines.
        let _ = self.services.write(record);
    }

    fn log(&self, record: &Record<'_>) -> Result<(), ServiceError> {
        self.services.log(record)
    }

    fn log_level(&self) -> u32 {
        if self.services.may_log() { enabled_level() } else { 0 }
    }

    fn thread_panicked(&self, message: &str, location: &str) {
        self.services.thread_panicked(message, location);
    }

    fn exited(&self, pid: u32, Diagnosis { message: reason, hint }: Diagnosis) {
        let Some(slot) = self.slot.upgrade() else { return };
        slot.counters.exits.fetch_add(1, Ordering::Relaxed);
        slot.counters.faults.fetch_add(1, Ordering::Relaxed);
        slot.health.emit(HostEvent::ChildExited {
            plugin: self.name.clone(),
            generation: self.generation,
            pid,
            reason,
            hint,
        });
        slot.health.record_fault(self.generation.get(), false);
    }

    fn listens_beyond_loopback(&self, pid: u32, address: SocketAddr) {
        let generation = self.generation;
        tracing::warn!(
            plugin = %self.name, generation = generation.get(), pid, %address,
            hint = "listen on 127.0.0.1 or a Unix socket",
            "the process listens on an address that other machines may reach"
        );
        let Some(slot) = self.slot.upgrade() else { return };
        let plugin = self.name.clone();
        slot.health.emit(HostEvent::ListensBeyondLoopback { plugin, generation, pid, address });
    }

    fn restarted(&self, pid: u32, after: Duration) {
        let Some(slot) = self.slot.upgrade() else { return };
        slot.counters.restarts.fetch_add(1, Ordering::Relaxed);
        let (plugin, generation) = (self.name.clone(), self.generation);
        slot.health.emit(HostEvent::Restarted { plugin, generation, pid, after });
    }

    fn not_restarted(&self, Diagnosis { message: reason, hint }: &Diagnosis) {
        tracing::warn!(
            plugin = %self.name,
            generation = self.generation.get(),
            reason,
            hint = hint.as_deref()
        );
        if let Some(slot) = self.slot.upgrade() {
            slot.health.record_fault(self.generation.get(), false);
        }
    }
}
