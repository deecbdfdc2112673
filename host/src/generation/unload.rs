//! The unload of a generation: drain with a time limit, shut the plugin down, then close its image
//! or retain it with the reason. Runs on a thread of the host, never on a caller's. Retained
//! libraries are counted, listed, and never freed while their reason lasts; if that is temporary,
//! the unload is retried.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotbay_plugin::abi::{CALLBACKS, Callback, RawCensus};

use super::{Backend, Generation, State, UnloadLeftovers, error_of};
use crate::boundary::{Close, Image, Root, Variables};
use crate::config::HostLimits;
use crate::error::{Error, ErrorKind};
use crate::event::{EventBus, HostEvent};
use crate::id::{GenerationId, PluginName};
use crate::sync::{deadline_in, lock};
use crate::worker::RunOutcome;

/// Time for which an exiting thread may stay in the system's list.
const THREAD_EXIT_TIMEOUT: Duration = Duration::from_millis(200);

/// Time limit for the thread-local destructors of the thread that opened a library.
const OPENER_EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether to wait for exiting threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitForThreads {
    /// For a moment.
    Briefly,
    /// Not at all.
    No,
}

/// The outcome of an unload.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The error of the plugin's shutdown.
    pub(crate) shutdown_error: Option<Error>,
    /// Bytes that it did not free, if it counts them.
    pub(crate) leaked_bytes: Option<i64>,
    /// The reason it stays mapped, if it does.
    pub(crate) retain_reason: Option<String>,
}

/// The remains of a generation after its shutdown.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) leftovers: UnloadLeftovers,
    shutdown_error: Option<Error>,
    /// The reason its image must stay mapped, if it must.
    pub(crate) reason: Option<String>,
}

/// Unloads a generation that gets no new calls, and emits the outcome.
pub(crate) fn unload(
    generation: &Arc<Generation>,
    drain_timeout: Duration,
    limits: &HostLimits,
    deferred: &DeferredUnloads,
) -> Outcome {
    generation.set_state(State::Draining);
    let Some(backend) = generation.drained(drain_timeout) else {
        return retain_draining(generation, deferred);
    };
    generation.returned.put(backend);
    match stop(generation, limits, deferred) {
        Ok(stopped) => close_or_retain(generation, stopped, deferred),
        Err(retained) => retained,
    }
}

/// Shuts down the plugin of a generation without leases, on a thread of the plugin. Retains a
/// plugin that does not stop.
pub(crate) fn stop(
    generation: &Arc<Generation>,
    limits: &HostLimits,
    deferred: &DeferredUnloads,
) -> Result<Stopped, Outcome> {
    let Some(backend) = generation.drained(limits.drain_timeout) else {
        return Err(retain_draining(generation, deferred));
    };
    generation.set_state(State::Retired);
    let (plugin, id) = (generation.name.clone(), generation.id);
    generation.events.emit(HostEvent::Retired { plugin, generation: id });
    let running = generation.workers.join(limits.stop_timeout);
    if running > 0 {
        let reason = format!("workers: {running} still running");
        return Err(retain(generation, deferred, reason, RetainReason::Backend(backend)));
    }
    let timeout = backend.shutdown_timeout(limits.stop_timeout);
    let ended = backend.run(&generation.workers, timeout, move |mut backend| {
        let ended = backend.shut_down(true);
        (ended, backend.into_leftovers())
    });
    // From here on the host answers the plugin's requests with `Closed`.
    let registration = lock(&generation.services).take();
    // Not under the lock: dropping it may emit a last log line to subscribers.
    drop(registration);
    let (shutdown_error, leftovers) = match ended {
        RunOutcome::Completed((Ok(()), leftovers)) => (None, leftovers),
        RunOutcome::Completed((Err(failure), leftovers)) => (Some(error_of(failure)), leftovers),
        RunOutcome::TimedOut => {
            let reason = "shutdown: still running".to_owned();
            let outcome = retain(generation, deferred, reason, RetainReason::Running);
            let message = format!(
                "did not shut down within {} ms; its `shutdown` is still running",
                timeout.as_millis()
            );
            let error = Error::new(ErrorKind::DeadlineExceeded, message).of(&generation.name);
            let shutdown_error = Some(error.in_generation(generation.id));
            return Err(Outcome { shutdown_error, ..outcome });
        }
        RunOutcome::SpawnFailed(error) => {
            let reason = format!("shutdown: cannot start a thread ({error})");
            return Err(retain(generation, deferred, reason, RetainReason::Running));
        }
    };
    let mut reason = generation.retain_reason.clone();
    if let Some(error) = &shutdown_error {
        let (plugin, id) = (generation.name.clone(), generation.id);
        let message = error.full_message();
        reason.get_or_insert_with(|| format!("shutdown: {message}"));
        let hint = error.hint().map(str::to_owned);
        let event = HostEvent::ShutdownFailed { plugin, generation: id, reason: message, hint };
        generation.events.emit(event);
    }
    let shutdown_error =
        shutdown_error.map(|error| error.of(&generation.name).in_generation(generation.id));
    Ok(Stopped { leftovers, shutdown_error, reason })
}

/// Closes the remains of a stopped generation, or retains them.
pub(crate) fn close_or_retain(
    generation: &Generation,
    stopped: Stopped,
    deferred: &DeferredUnloads,
) -> Outcome {
    let shutdown_error = stopped.shutdown_error;
    let closed = match stopped.leftovers {
        UnloadLeftovers::Library(image, root) => {
            close(image, Some(root), stopped.reason, WaitForThreads::Briefly)
        }
        #[cfg(all(unix, feature = "process"))]
        UnloadLeftovers::Process(_) => Ok(None),
    };
    match closed {
        Ok(leaked_bytes) => {
            generation.set_state(State::Closed);
            let (plugin, id) = (generation.name.clone(), generation.id);
            generation.events.emit(HostEvent::Closed { plugin, generation: id, leaked_bytes });
            Outcome { shutdown_error, leaked_bytes, retain_reason: None }
        }
        Err((reason, left)) => {
            Outcome { shutdown_error, ..retain(generation, deferred, reason, left) }
        }
    }
}

fn retain_draining(generation: &Arc<Generation>, deferred: &DeferredUnloads) -> Outcome {
    let left = RetainReason::Draining(Arc::clone(generation));
    retain(generation, deferred, "calls: some are still running".to_owned(), left)
}

fn retain(
    generation: &Generation,
    deferred: &DeferredUnloads,
    reason: String,
    left: RetainReason,
) -> Outcome {
    let (plugin, id) = (generation.name.clone(), generation.id);
    generation.set_state(State::Kept(reason.clone()));
    deferred.retain(RetainedEntry {
        plugin: plugin.clone(),
        generation: Some(id),
        reason: reason.clone(),
        retained: left,
    });
    let retain_reason = Some(reason.clone());
    generation.events.emit(HostEvent::Kept { plugin, generation: id, reason });
    Outcome { retain_reason, ..Outcome::default() }
}

/// Closes an image after the plugin's shutdown, if nothing uses it; `keep` is a reason not to.
///
/// Returns the bytes that the plugin did not free, if they are counted. The thread that opened the
/// image exits right before, since it must live while code of the library may run.
pub(crate) fn close(
    image: Arc<Image>,
    root: Option<Root>,
    keep: Option<String>,
    settle: WaitForThreads,
) -> Result<Option<i64>, (String, RetainReason)> {
    if !image.is_library() {
        if let Ok(image) = Arc::try_unwrap(image) {
            let _ = image.close();
        }
        return Ok(None);
    }
    if let Some(reason) = keep.or_else(|| callback_reason(&image, root)) {
        return Err((reason, RetainReason::Image(image)));
    }
    if let Some(reason) = use_reason(&image, root, settle) {
        return Err((reason, RetainReason::Temporary(image, root)));
    }
    if !image.stop_opening_thread(OPENER_EXIT_TIMEOUT) {
        let reason = "threads: the opening thread is still running";
        return Err((reason.to_owned(), RetainReason::Temporary(image, root)));
    }
    // The destructors of its thread-locals may have left something.
    if let Some(reason) = callback_reason(&image, root) {
        return Err((reason, RetainReason::Image(image)));
    }
    if let Some(reason) = use_reason(&image, root, settle) {
        return Err((reason, RetainReason::Temporary(image, root)));
    }
    let census = root.map(Root::census).unwrap_or_default();
    let leaked_bytes = census.counts_bytes.then_some(census.live_bytes);
    let image = match Arc::try_unwrap(image) {
        Ok(image) => image,
        Err(image) => {
            return Err(("it is still in use".to_owned(), RetainReason::Temporary(image, root)));
        }
    };
    if let Some(root) = root {
        root.release_keys();
        // A thread that was exiting may have run one of their destructors meanwhile.
        let key_threads = root.census().key_threads;
        if key_threads > 0 {
            let reason = key_threads_reason(key_threads);
            return Err((reason, RetainReason::Temporary(Arc::new(image), Some(root))));
        }
    }
    match image.close() {
        Close::Unmapped => Ok(leaked_bytes),
        Close::Pinned(image) => {
            let reason = "pinned: a live thread holds one of its thread-local values";
            Err((reason.to_owned(), RetainReason::Closed(image)))
        }
    }
}

/// Returns why the image can never be closed: something may call it back at any time.
fn callback_reason(image: &Image, root: Option<Root>) -> Option<String> {
    if let Some(reason) = root.and_then(|root| noted_calls(&root.census())) {
        return Some(reason);
    }
    let reason = "it installed a signal handler, which a later handler of the signal may call";
    image.held_signal_handler().then(|| reason.to_owned())
}

/// Lists the calls by which a plugin left a pointer to itself in the C library.
fn noted_calls(census: &RawCensus) -> Option<String> {
    let is_set = |at: usize| census.calls[at / 64] >> (at % 64) & 1 != 0;
    let called = (0..census.calls.len() * 64).filter(|at| is_set(*at));
    let reasons: Vec<_> = called
        .map(|at| match CALLBACKS.get(at) {
            Some(Callback { name, consequence, is_wrapped: true }) => {
                format!("it called `{name}`, {consequence}")
            }
            Some(Callback { name, consequence, .. }) => {
                format!("it looked up `{name}`, {consequence}")
            }
            None => "it called a function that this host does not know".to_owned(),
        })
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Returns why the image is in use, after waiting for exiting threads.
fn use_reason(image: &Image, root: Option<Root>, settle: WaitForThreads) -> Option<String> {
    let timeout = match settle {
        WaitForThreads::Briefly => THREAD_EXIT_TIMEOUT,
        WaitForThreads::No => Duration::ZERO,
    };
    let deadline = deadline_in(timeout);
    loop {
        let reason = current_use(image, root)?;
        if Instant::now() >= deadline {
            return Some(reason);
        }
        // The system sends no notification when a thread leaves its list.
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn current_use(image: &Image, root: Option<Root>) -> Option<String> {
    let outputs = image.outputs().sum();
    if outputs > 0 {
        return Some(format!("outputs: {outputs} still held"));
    }
    if let Some(root) = root {
        let Some(census) = census(image, root) else {
            return Some("threads: the opening thread does not respond".to_owned());
        };
        if !census.counts_threads {
            return Some("threads: cannot be counted on this system".to_owned());
        }
        if census.live_threads > 0 {
            return Some(format!("threads: {} still running", census.live_threads));
        }
        if census.key_threads > 0 {
            return Some(key_threads_reason(census.key_threads));
        }
    }
    match image.variables() {
        Variables::Free => None,
        Variables::Held(name) => Some(format!("memory: `{name}` points into the library")),
        Variables::Unreadable => Some(
            "memory: the environment of this process cannot be read, and may point into the library"
                .to_owned(),
        ),
    }
}

/// Takes the census on the thread that opened the library, if it lives. That thread itself does
/// not count, since it exits before the library is closed.
fn census(image: &Image, root: Root) -> Option<RawCensus> {
    let Some(opener) = image.opening_thread() else { return Some(root.census()) };
    match opener.run(OPENER_EXIT_TIMEOUT, move || root.census()) {
        RunOutcome::Completed(census) => Some(census),
        RunOutcome::TimedOut | RunOutcome::SpawnFailed(_) => None,
    }
}

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

/// Returns the reason a library is retained while threads hold values of its thread keys.
fn key_threads_reason(threads: u32) -> String {
    match threads {
        1 => "thread keys: 1 thread holds values".to_owned(),
        _ => format!("thread keys: {threads} threads hold values"),
    }
}
