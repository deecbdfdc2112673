//! The slot of a plugin: its current generation and the queue of its pooled calls. Calls and
//! reloads meet only here.

mod async_service;
mod batch;
mod cache_meter;
mod flags;
mod health;
mod in_flight;
mod pause;
mod queueing;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::call::{CallState, Reply, Request};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::EventBus;
use crate::generation::{CallArgs, CallPolicy, Generation, InstanceRef, next_call_id};
use crate::id::{GenerationId, PluginName};
use crate::metrics::Latencies;
use crate::pool::{Queue, TimerHandle};
use crate::sync::ShardedCounter;
pub(crate) use async_service::AsyncService;
pub(crate) use batch::{BatchCollector, BatchSlot, BatchedCall};
use cache_meter::CacheMeter;
use flags::SlotFlag;
pub(crate) use health::{Admission, Health};
use health::{CallOrigin, is_unanswered};
use pause::Vacant;

/// The slot of one plugin.
pub(crate) struct Slot {
    current: ArcSwapOption<InstanceRef>,
    pub(crate) name: PluginName,
    pub(crate) counters: CallCounters,
    pub(crate) health: Health,
    queue: Queue,
    timer: TimerHandle,
    /// Whether calls may run as tasks: the application has no layers around them.
    supports_async: AtomicBool,
    /// The policy for calls of the current generation; `None` before the first.
    policy: ArcSwapOption<CallPolicy>,
    generations: AtomicU64,
    /// The reason no generation is current.
    vacant: Mutex<Vacant>,
    changed: Condvar,
    /// Maximum time that a call waits while the plugin is paused.
    pause_timeout: Duration,
}

/// One call in this many is timed; a power of two.
pub(crate) const SAMPLED_ONE_IN: u32 = 64;

/// The counters of a slot.
#[derive(Debug)]
pub(crate) struct CallCounters {
    pub(crate) calls: ShardedCounter,
    pub(crate) errors: AtomicU64,
    /// Panics of calls and of the plugin's threads, and unrequested exits of its process.
    pub(crate) faults: AtomicU64,
    /// Unrequested exits of its process.
    pub(crate) exits: AtomicU64,
    /// Processes started to replace one that exited.
    pub(crate) restarts: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Calls that exceeded their deadline while they ran.
    pub(crate) abandoned: AtomicU64,
    /// Calls rejected because they exceeded `queue_timeout`.
    pub(crate) shed: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) cache: CacheMeter,
    /// Durations of the sampled calls.
    pub(crate) latencies: Latencies,
}

/// A request on the call path, and the lease it runs under, if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallScope<'v> {
    pub(crate) request: &'v Request<'v>,
    pub(crate) lease: Option<&'v InstanceRef>,
    /// State shared with the caller, if others may complete the call.
    pub(crate) state: Option<&'v CallState>,
    /// The policy that the call was checked against, if it was.
    pub(crate) policy: Option<&'v CallPolicy>,
    pub(crate) method: Method,
    /// Its slot in a batch, if it is part of one.
    pub(crate) batch_slot: Option<&'v BatchSlot<'v>>,
    /// Unique in this process.
    pub(crate) call_id: u64,
}

impl<'v> CallScope<'v> {
    /// Creates the scope of a call on the caller's thread.
    #[inline]
    pub(crate) fn inline(request: &'v Request<'v>) -> Self {
        let call_id = next_call_id();
        let method = Method::Call;
        Self { request, lease: None, state: None, policy: None, method, batch_slot: None, call_id }
    }

    /// Creates the scope of a call on a worker that holds a lease.
    #[inline]
    pub(crate) fn pooled(
        request: &'v Request<'v>,
        instance: &'v InstanceRef,
        state: &'v CallState,
    ) -> Self {
        let (lease, state) = (Some(instance), Some(state));
        Self { lease, state, method: Method::Execute, ..Self::inline(request) }
    }

    /// Returns the policy that the call was checked against, or that of its lease.
    pub(crate) fn leased_policy(&self) -> Option<&'v CallPolicy> {
        self.policy.or_else(|| self.lease.map(|instance| &*instance.generation().policy))
    }

    fn origin(&self) -> CallOrigin {
        if self.lease.is_some() { CallOrigin::Admitted } else { CallOrigin::Caller }
    }
}

/// The method by which a call is made.
///
/// ```
/// use hotbay::{Call, Error, Host, Layer, Method, Next, Output, Reply, Request};
///
/// struct DirectOnly;
///
/// impl Layer for DirectOnly {
///     fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
///         assert_eq!(call.method(), Method::Call);
///         next.call(call)
///     }
/// }
///
/// let host = Host::builder()
///     .layer(DirectOnly)
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// assert_eq!(host.plugin("echo")?.call(Request::text("hello"))?.as_text()?, "hello");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// On the caller's thread: [`PluginHandle::call`](crate::PluginHandle::call).
    Call,
    /// On the caller's thread, on a pinned generation: [`Pinned::call`](crate::Pinned::call).
    Pinned,
    /// On a worker: a thread of the plugin, or a task of the host if the plugin is a process. See
    /// [`PluginHandle::execute`](crate::PluginHandle::execute).
    Execute,
}

/// A service of the call path: a layer, or the slot at its end.
pub(crate) trait SyncService: Send + Sync {
    /// Makes the call on this thread and fills `reply`.
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error>;
}

impl Slot {
    /// Creates an empty slot.
    pub(crate) fn new(
        name: PluginName,
        pause_timeout: Duration,
        policy: Option<Quarantine>,
        events: EventBus,
        timer: TimerHandle,
    ) -> Self {
        let health = Health::new(name.clone(), policy, events);
        let counters = CallCounters {
            calls: ShardedCounter::new(),
            errors: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            log_lines_dropped: AtomicU64::new(0),
            cache: CacheMeter::default(),
            latencies: Latencies::new(),
        };
        Self {
            current: ArcSwapOption::empty(),
            name,
            counters,
            health,
            queue: Queue::new(),
            timer,
            supports_async: AtomicBool::new(false),
            policy: ArcSwapOption::empty(),
            generations: AtomicU64::new(0),
            vacant: Mutex::new(Vacant::Empty),
            changed: Condvar::new(),
            pause_timeout,
        }
    }

    /// Returns the number of the next generation.
    pub(crate) fn next_generation(&self) -> GenerationId {
        GenerationId::after(self.generations.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the current generation, without a lease.
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.current.load().as_ref().map(|instance| Arc::clone(instance.generation()))
    }

    /// Returns the current instance, and waits for it while the plugin is paused.
    pub(crate) fn pin(&self) -> Result<Arc<InstanceRef>, Error> {
        if self.is_shutting_down() {
            return Err(self.unloaded_error());
        }
        match self.current.load_full() {
            Some(instance) => Ok(instance),
            None => self.wait_for_current(None),
        }
    }

    /// Returns the current instance like [`pin`](Self::pin), but fails while the plugin is paused.
    pub(crate) fn try_pin(&self) -> Result<Arc<InstanceRef>, Error> {
        self.current.load_full().ok_or_else(|| self.vacant_error())
    }

    /// Returns whether a call without special requirements has nothing to check.
    #[inline]
    pub(crate) fn fast_path_ok(&self) -> bool {
        self.health.flags.is_clear()
    }

    /// Returns the policy like [`policy`](Self::policy), without incrementing the reference count.
    pub(crate) fn load_policy(&self) -> arc_swap::Guard<Option<Arc<CallPolicy>>> {
        self.policy.load()
    }

    /// Returns the policy for calls of the current generation.
    pub(crate) fn policy(&self) -> Option<Arc<CallPolicy>> {
        self.policy.load_full()
    }

    /// Returns whether inputs are validated against a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.health.flags.has(SlotFlag::Schema)
    }

    /// Calls `next` with the policy for the call: the one it was checked against, that of its
    /// lease, or that of the current generation.
    pub(crate) fn with_policy(
        &self,
        scope: &CallScope<'_>,
        next: impl FnOnce(&CallScope<'_>, &CallPolicy) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(policy) = scope.leased_policy() {
            return next(&CallScope { policy: Some(policy), ..*scope }, policy);
        }
        match &*self.policy.load() {
            Some(policy) => next(&CallScope { policy: Some(policy), ..*scope }, policy),
            None => Err(self.unloaded_error()),
        }
    }

    /// Checks a call again if a reload replaced the generation whose policy it was checked against.
    #[inline]
    fn check(&self, instance: &InstanceRef, scope: &CallScope<'_>) -> Result<(), Error> {
        if !instance.checks_input() && scope.request.operation().is_none() {
            return Ok(());
        }
        self.recheck(instance, scope)
    }

    #[cold]
    fn recheck(&self, instance: &InstanceRef, scope: &CallScope<'_>) -> Result<(), Error> {
        let policy = &*instance.generation().policy;
        if scope.policy.is_some_and(|checked| std::ptr::eq(checked, policy)) {
            return Ok(());
        }
        policy.check(&self.name, scope.request)
    }

    /// Runs `run` under a lease of `generation`, if that is current.
    pub(crate) fn with_lease<T>(
        &self,
        generation: u64,
        run: impl FnOnce(&InstanceRef) -> T,
    ) -> Option<T> {
        let current = self.current.load();
        let instance = current.as_deref()?;
        (instance.generation().id.get() == generation).then(|| run(instance))
    }

    /// Records the outcome of an admitted call.
    #[cold]
    pub(crate) fn record_outcome(
        &self,
        admission: Admission,
        scope: &CallScope<'_>,
        outcome: &Result<(), Error>,
    ) {
        let mut timed_out = scope.state.is_some_and(CallState::timed_out);
        if !timed_out && outcome.as_ref().is_err_and(is_unanswered) {
            if scope.state.is_none_or(CallState::count_timeout_once) {
                self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
            } else {
                timed_out = true;
            }
        }
        self.health.record_outcome(admission, timed_out, outcome);
    }

    /// Admits or rejects a call.
    #[inline]
    pub(crate) fn admit(&self, scope: &CallScope<'_>) -> Result<Admission, Error> {
        if self.health.needs_check() {
            self.admit_slow(scope.origin())
        } else {
            Ok(Admission::Normal)
        }
    }

    #[cold]
    fn admit_slow(&self, origin: CallOrigin) -> Result<Admission, Error> {
        self.health.admit(origin, || self.queue.is_exhausted())
    }

    /// Rejects a call before it is queued if the plugin is quarantined. Starts no probe.
    pub(crate) fn check_admission(&self) -> Result<(), Error> {
        if !self.health.needs_check() {
            return Ok(());
        }
        self.health.check(|| self.queue.is_exhausted())
    }

    /// Rejects a call that was cancelled or whose deadline has passed.
    pub(crate) fn check_active(&self, request: &Request<'_>) -> Result<(), Error> {
        if request.is_cancelled() {
            return Err(self.cancelled_before_start());
        }
        match request.deadline() {
            Some(deadline) if deadline <= Instant::now() => {
                Err(self.deadline_error("was not called: the deadline had passed"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the error of a call that was cancelled before it started.
    #[cold]
    pub(crate) fn cancelled_before_start(&self) -> Error {
        let message = "was not called: the caller cancelled the call";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// Returns the error of a call that finds no current generation.
    #[cold]
    pub(crate) fn unloaded_error(&self) -> Error {
        if self.health.is_shutting_down() {
            return self.health.shutdown_error();
        }
        Error::new(ErrorKind::Retired, "was unloaded")
            .with_hint("look the plugin up again")
            .of(&self.name)
    }

    /// Returns whether the host is shutting down.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.health.needs_check() && self.health.is_shutting_down()
    }

    /// Rejects calls that have not started: the host is shutting down.
    pub(crate) fn begin_shutdown(&self) {
        self.health.begin_shutdown();
    }
}

impl SyncService for Arc<Slot> {
    /// Calls the instance that the scope leases, or leases the current one.
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let CallScope { request, state, call_id, .. } = *scope;
        let args = CallArgs { request, state, call_id };
        if let Some(instance) = scope.lease {
            return instance.call(args, reply);
        }
        match &*self.current.load() {
            Some(instance) => {
                self.check(instance, scope)?;
                instance.call(args, reply)
            }
            None => {
                let instance = self.wait_for_current(Some(scope.request))?;
                self.check(&instance, scope)?;
                instance.call(args, reply)
            }
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}
