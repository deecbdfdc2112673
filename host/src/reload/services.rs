//! What the host does for one generation of a plugin: its log, and its panics elsewhere.

use std::sync::{Arc, Weak};

use hotbay_plugin::{Fault, Level, ServiceError};

use super::candidate::Candidate;
use crate::boundary::services::Services;
use crate::event::HostEvent;
use crate::id::{GenerationId, PluginName};
use crate::slot::Slot;

/// The permission to write to the host's log.
const LOG: &str = "log";

#[derive(Debug)]
pub(super) struct PluginServices {
    name: PluginName,
    generation: GenerationId,
    may_log: bool,
    slot: Weak<Slot>,
}

impl PluginServices {
    pub(super) fn new(candidate: &Candidate, generation: GenerationId, slot: &Arc<Slot>) -> Self {
        Self {
            name: candidate.manifest.name().clone(),
            generation,
            may_log: candidate.manifest.permissions().contains(LOG),
            slot: Arc::downgrade(slot),
        }
    }
}

impl Services for PluginServices {
    fn log(&self, level: Level, message: &str) -> Result<(), ServiceError> {
        if !self.may_log {
            return Err(ServiceError::Denied);
        }
        let (plugin, generation) = (&self.name, self.generation.get());
        match level {
            Level::Error => tracing::error!(%plugin, generation, "{message}"),
            Level::Warn => tracing::warn!(%plugin, generation, "{message}"),
            Level::Info => tracing::info!(%plugin, generation, "{message}"),
            Level::Debug => tracing::debug!(%plugin, generation, "{message}"),
            Level::Trace => tracing::trace!(%plugin, generation, "{message}"),
        }
        Ok(())
    }

    fn thread_panicked(&self, message: &str, location: &str) {
        let location = (!location.is_empty()).then(|| location.to_owned());
        let fault = Fault::new(message.to_owned(), location, Vec::new());
        let Some(slot) = self.slot.upgrade() else {
            return;
        };
        slot.health.fault(self.generation.get(), false);
        slot.health.tell(HostEvent::Faulted {
            plugin: self.name.clone(),
            generation: self.generation,
            fault,
            own_thread: true,
        });
    }
}
