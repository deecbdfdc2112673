//! What is left of generations whose libraries stay mapped: counted, listed with the reason,
//! looked at again while the reason may go, and never freed before.

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

/// How often those whose reason may go are looked at. The system tells nobody when a thread
/// ends, or when the last call of somebody else returns.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// What is left of one generation.
#[derive(Debug)]
pub(crate) struct RetainedEntry {
    pub(crate) plugin: PluginName,
    /// None if it never served.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) reason: String,
    pub(crate) retained: RetainReason,
}

/// What has to stay in memory.
#[derive(Debug)]
pub(crate) enum RetainReason {
    /// A plugin that runs, somewhere: nothing can be done.
    Running,
    /// A plugin that was not stopped: nothing can be done.
    Backend(Backend),
    /// A library of a plugin that has ended, for a reason that stays.
    Image(Arc<Image>),
    /// A generation whose calls did not end in time.
    Draining(Arc<Generation>),
    /// A library of a plugin that has ended, for a reason that may go.
    Temporary(Arc<Image>, Option<Root>),
    /// A library that was closed, and that the system keeps until a thread has ended.
    Closed(Box<Image>),
}

impl RetainReason {
    fn may_unload(&self) -> bool {
        matches!(self, Self::Draining(_) | Self::Temporary(..) | Self::Closed(_))
    }

    /// Bytes of the address space that its library takes, if it is known here.
    fn mapped_bytes(&self) -> Option<u64> {
        match self {
            Self::Image(image) | Self::Temporary(image, _) => Some(image.mapped_bytes()),
            Self::Closed(image) => Some(image.mapped_bytes()),
            Self::Backend(backend) => backend.image().map(|image| image.mapped_bytes()),
            Self::Running | Self::Draining(_) => None,
        }
    }
}

/// All that is left in a host, and the thread that looks at it while anything may go.
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
    kept: Vec<RetainedEntry>,
    is_looking: bool,
    has_ended: bool,
}

impl DeferredUnloads {
    pub(crate) fn new(events: EventBus, limits: HostLimits) -> Self {
        let (inner, ended) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { inner, ended, events, limits }) }
    }

    pub(crate) fn retain(&self, kept: RetainedEntry) {
        self.shared.keep(kept);
    }

    /// Looks no more; what is left stays mapped for good.
    pub(crate) fn end(&self) {
        lock(&self.shared.inner).has_ended = true;
        self.shared.ended.notify_all();
    }

    /// How many libraries stay mapped.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.inner).kept.len()
    }

    /// Of which plugins libraries stay mapped, how many of each, and the bytes of address space
    /// that they take as far as that is known, in words.
    pub(crate) fn totals(&self) -> String {
        const MAX_NAMES: usize = 8;
        let inner = lock(&self.shared.inner);
        let mut counts = BTreeMap::<&PluginName, usize>::new();
        for kept in &inner.kept {
            *counts.entry(&kept.plugin).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let more = counts.len().saturating_sub(MAX_NAMES);
        let named = counts.iter().take(MAX_NAMES);
        let named: Vec<_> = named.map(|(name, count)| format!("`{name}` {count}")).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let bytes: u64 = inner.kept.iter().filter_map(|kept| kept.retained.mapped_bytes()).sum();
        format!("{}{more}; {bytes} bytes mapped", named.join(", "))
    }

    /// Who stays mapped, and why.
    pub(crate) fn list(&self) -> Vec<(PluginName, Option<GenerationId>, String)> {
        let inner = lock(&self.shared.inner);
        let entry =
            |kept: &RetainedEntry| (kept.plugin.clone(), kept.generation, kept.reason.clone());
        inner.kept.iter().map(entry).collect()
    }
}

impl Shared {
    fn keep(self: &Arc<Self>, kept: RetainedEntry) {
        tracing::warn!(
            plugin = %kept.plugin,
            generation = kept.generation.map(GenerationId::get),
            reason = kept.reason,
            "library stays mapped"
        );
        let may_go = kept.retained.may_unload();
        let mut inner = lock(&self.inner);
        inner.kept.push(kept);
        if may_go && !inner.is_looking {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("hotbay-keeper".to_owned());
            // Without a thread the next one that is kept tries again.
            inner.is_looking = thread.spawn(move || shared.retry()).is_ok();
        }
    }

    /// Looks now and then, until nothing is left that may go or the host has ended.
    fn retry(self: Arc<Self>) {
        let mut inner = lock(&self.inner);
        loop {
            let waited =
                self.ended.wait_timeout_while(inner, RETRY_EVERY, |inner| !inner.has_ended);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            if inner.has_ended {
                return;
            }
            // One at a time and without the lock, because their code is asked. Others only add
            // to the end, so places stay; who is looked at stays listed and counted.
            let mut at = 0;
            while at < inner.kept.len() {
                if !inner.kept[at].retained.may_unload() {
                    at += 1;
                    continue;
                }
                let left = std::mem::replace(&mut inner.kept[at].retained, RetainReason::Running);
                let RetainedEntry { plugin, generation, reason, .. } = &inner.kept[at];
                let (plugin, reason) = (plugin.clone(), reason.clone());
                let kept =
                    RetainedEntry { plugin, generation: *generation, reason, retained: left };
                drop(inner);
                let looked = self.retried(kept);
                inner = lock(&self.inner);
                match looked {
                    Err(still) => {
                        inner.kept[at] = still;
                        at += 1;
                    }
                    Ok(event) => {
                        inner.kept.remove(at);
                        drop(inner);
                        if let Some(event) = event {
                            self.events.emit(event);
                        }
                        inner = lock(&self.inner);
                    }
                }
            }
            if !inner.kept.iter().any(|kept| kept.retained.may_unload()) {
                inner.is_looking = false;
                return;
            }
        }
    }

    /// Looks at one; comes back with what to tell, or with what is still left of it.
    fn retried(self: &Arc<Self>, kept: RetainedEntry) -> Result<Option<HostEvent>, RetainedEntry> {
        let RetainedEntry { plugin, generation, reason, retained: left } = kept;
        let closed = match left {
            RetainReason::Draining(draining) => {
                if !draining.has_drained() {
                    let left = RetainReason::Draining(draining);
                    return Err(RetainedEntry { plugin, generation, reason, retained: left });
                }
                // Tells what comes of it itself.
                let deferred = DeferredUnloads { shared: Arc::clone(self) };
                if let Some(stopped) = stop(&draining, &self.limits, &deferred) {
                    close_or_retain(&draining, stopped, &deferred);
                }
                return Ok(None);
            }
            RetainReason::Temporary(image, root) => close(image, root, None, WaitForThreads::No),
            RetainReason::Closed(image) if image.is_still_mapped() => {
                Err((reason, RetainReason::Closed(image)))
            }
            RetainReason::Closed(_) => Ok(None),
            left => Err((reason, left)),
        };
        match closed {
            Err((reason, left)) => {
                Err(RetainedEntry { plugin, generation, reason, retained: left })
            }
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
