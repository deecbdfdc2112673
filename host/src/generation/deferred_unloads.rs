//! Generations whose libraries stay mapped: counted, listed with the reason, and never freed while
//! the reason lasts. Retries those whose reason is temporary.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::Backend;
use super::Generation;
use super::unload::{WaitForThreads, close, close_or_retain, stop};
use crate::boundary::{Image, Root};
use crate::config::HostLimits;
use crate::event::{EventBus, HostEvent};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// Interval between retries of an unload. The system does not report when a thread exits by itself,
/// or when the last call into a library returns.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The remains of one generation.
#[derive(Debug)]
pub(crate) struct RetainedEntry {
    pub(crate) plugin: PluginName,
    /// `None` if it never served.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) reason: String,
    pub(crate) retained: RetainReason,
}

/// The part of a generation that stays in memory.
#[derive(Debug)]
pub(crate) enum RetainReason {
    /// A plugin that is still running its shutdown; permanent.
    Running,
    /// A plugin that was not shut down; permanent.
    Backend(Backend),
    /// The library of a plugin that was shut down, for a permanent reason.
    Image(Arc<Image>),
    /// A generation whose calls did not return in time.
    Draining(Arc<Generation>),
    /// The library of a plugin that was shut down, for a reason that may pass.
    Temporary(Arc<Image>, Option<Root>),
    /// A closed library that the system keeps mapped until a thread exits.
    Closed(Box<Image>),
}

impl RetainReason {
    fn may_unload(&self) -> bool {
        matches!(self, Self::Draining(_) | Self::Temporary(..) | Self::Closed(_))
    }

    /// Returns the bytes of address space that its library takes, if known.
    fn mapped_bytes(&self) -> Option<u64> {
        match self {
            Self::Image(image) | Self::Temporary(image, _) => Some(image.mapped_bytes()),
            Self::Closed(image) => Some(image.mapped_bytes()),
            Self::Backend(backend) => backend.image().map(|image| image.mapped_bytes()),
            Self::Running | Self::Draining(_) => None,
        }
    }
}

/// All that stays mapped in a host, and the thread that retries to unload it.
pub(crate) struct DeferredUnloads {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    ended: Condvar,
    events: EventBus,
    limits: HostLimits,
}

#[derive(Default)]
struct Inner {
    entries: Vec<RetainedEntry>,
    is_retrying: bool,
    has_ended: bool,
}

impl DeferredUnloads {
    pub(crate) fn new(events: EventBus, limits: HostLimits) -> Self {
        let (inner, ended) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { inner, ended, events, limits }) }
    }

    pub(crate) fn retain(&self, entry: RetainedEntry) {
        self.shared.retain(entry);
    }

    /// Stops the retries; what remains stays mapped forever.
    pub(crate) fn end(&self) {
        lock(&self.shared.inner).has_ended = true;
        self.shared.ended.notify_all();
    }

    /// Returns how many libraries stay mapped.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.inner).entries.len()
    }

    /// Formats the number of mapped libraries of each plugin, and the bytes of address space that
    /// they take as far as known.
    pub(crate) fn totals(&self) -> String {
        const MAX_NAMES: usize = 8;
        let inner = lock(&self.shared.inner);
        let mut counts = BTreeMap::<&PluginName, usize>::new();
        for entry in &inner.entries {
            *counts.entry(&entry.plugin).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let more = counts.len().saturating_sub(MAX_NAMES);
        let named = counts.iter().take(MAX_NAMES);
        let named: Vec<_> = named.map(|(name, count)| format!("`{name}` {count}")).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let bytes: u64 =
            inner.entries.iter().filter_map(|entry| entry.retained.mapped_bytes()).sum();
        format!("{}{more}; {bytes} bytes mapped", named.join(", "))
    }

    /// Returns the plugins whose libraries stay mapped, and why.
    pub(crate) fn list(&self) -> Vec<(PluginName, Option<GenerationId>, String)> {
        let inner = lock(&self.shared.inner);
        let entry =
            |entry: &RetainedEntry| (entry.plugin.clone(), entry.generation, entry.reason.clone());
        inner.entries.iter().map(entry).collect()
    }
}

impl Shared {
    fn retain(self: &Arc<Self>, entry: RetainedEntry) {
        tracing::warn!(
            plugin = %entry.plugin,
            generation = entry.generation.map(GenerationId::get),
            reason = entry.reason,
            "library stays mapped"
        );
        let may_unload = entry.retained.may_unload();
        let mut inner = lock(&self.inner);
        inner.entries.push(entry);
        if may_unload && !inner.is_retrying {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("hotbay-keeper".to_owned());
            // Without a thread, the next entry tries to start one again.
            inner.is_retrying = thread.spawn(move || shared.retry()).is_ok();
        }
    }

    /// Retries until no entry may be unloaded or the host has shut down.
    fn retry(self: Arc<Self>) {
        let mut inner = lock(&self.inner);
        loop {
            let waited =
                self.ended.wait_timeout_while(inner, RETRY_EVERY, |inner| !inner.has_ended);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            if inner.has_ended {
                return;
            }
            // One at a time and without the lock, because code of the plugin runs. Others only
            // append, so indices stay valid; an entry stays listed while it is retried.
            let mut at = 0;
            while at < inner.entries.len() {
                if !inner.entries[at].retained.may_unload() {
                    at += 1;
                    continue;
                }
                let retained =
                    std::mem::replace(&mut inner.entries[at].retained, RetainReason::Running);
                let RetainedEntry { plugin, generation, reason, .. } = &inner.entries[at];
                let (plugin, reason) = (plugin.clone(), reason.clone());
                let entry = RetainedEntry { plugin, generation: *generation, reason, retained };
                drop(inner);
                let retried = self.retry_entry(entry);
                inner = lock(&self.inner);
                match retried {
                    Err(entry) => {
                        inner.entries[at] = entry;
                        at += 1;
                    }
                    Ok(event) => {
                        inner.entries.remove(at);
                        drop(inner);
                        if let Some(event) = event {
                            self.events.emit(event);
                        }
                        inner = lock(&self.inner);
                    }
                }
            }
            if !inner.entries.iter().any(|entry| entry.retained.may_unload()) {
                inner.is_retrying = false;
                return;
            }
        }
    }

    /// Retries one entry. Returns an event to emit, or what still remains.
    fn retry_entry(
        self: &Arc<Self>,
        entry: RetainedEntry,
    ) -> Result<Option<HostEvent>, RetainedEntry> {
        let RetainedEntry { plugin, generation, reason, retained } = entry;
        let closed = match retained {
            RetainReason::Draining(draining) => {
                if !draining.has_drained() {
                    let retained = RetainReason::Draining(draining);
                    return Err(RetainedEntry { plugin, generation, reason, retained });
                }
                // Emits its own events.
                let deferred = DeferredUnloads { shared: Arc::clone(self) };
                if let Ok(stopped) = stop(&draining, &self.limits, &deferred) {
                    close_or_retain(&draining, stopped, &deferred);
                }
                return Ok(None);
            }
            RetainReason::Temporary(image, root) => close(image, root, None, WaitForThreads::No),
            RetainReason::Closed(image) if image.is_still_mapped() => {
                Err((reason, RetainReason::Closed(image)))
            }
            RetainReason::Closed(_) => Ok(None),
            retained => Err((reason, retained)),
        };
        match closed {
            Err((reason, retained)) => Err(RetainedEntry { plugin, generation, reason, retained }),
            Ok(leaked_bytes) => {
                let closed = |generation| HostEvent::Closed { plugin, generation, leaked_bytes };
                Ok(generation.map(closed))
            }
        }
    }
}

impl fmt::Debug for DeferredUnloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredUnloads").field("kept", &self.count()).finish()
    }
}
