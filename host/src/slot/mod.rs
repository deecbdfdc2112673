//! The hall: the place where a plugin's current generation stands, and the queue of the calls
//! that wait for it. The one place where calls and reloads meet.

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

/// The place of one plugin.
pub(crate) struct Slot {
    current: ArcSwapOption<InstanceRef>,
    pub(crate) name: PluginName,
    pub(crate) counters: CallCounters,
    pub(crate) health: Health,
    queue: Queue,
    timer: TimerHandle,
    /// Whether calls may run as tasks: no layer of the application is in their way.
    supports_async: AtomicBool,
    /// What calls of the current generation go by; none before the first.
    policy: ArcSwapOption<CallPolicy>,
    generations: AtomicU64,
    /// What it means that nobody is current.
    vacant: Mutex<Vacant>,
    changed: Condvar,
    /// How long a call waits while the plugin is paused.
    pause_timeout: Duration,
}

/// One call in so many has its duration taken; a power of two.
pub(crate) const SAMPLED_ONE_IN: u32 = 64;

/// What a slot counts.
#[derive(Debug)]
pub(crate) struct CallCounters {
    pub(crate) calls: ShardedCounter,
    pub(crate) errors: AtomicU64,
    /// Panics, of calls and of the plugin's own threads, and unrequested exits of its
    /// process.
    pub(crate) faults: AtomicU64,
    /// Processes of it that exited without being asked to, and those that took the
    /// place of one that had exited.
    pub(crate) exits: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Calls whose deadlines passed while they ran.
    pub(crate) abandoned: AtomicU64,
    /// Calls that waited too long to be worth beginning.
    pub(crate) shed: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) cache: CacheMeter,
    /// How long some of the calls took.
    pub(crate) latencies: Latencies,
}

/// A request on its way down the corridor, and the lease it goes by, if it has one already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallScope<'v> {
    pub(crate) request: &'v Request<'v>,
    pub(crate) lease: Option<&'v InstanceRef>,
    /// How it stands with whoever made it, where others may speak for them.
    pub(crate) state: Option<&'v CallState>,
    /// What the call was judged by, if there was anything to judge.
    pub(crate) policy: Option<&'v CallPolicy>,
    pub(crate) method: Method,
    /// Where it is sent together with others, if it is.
    pub(crate) batch_slot: Option<&'v BatchSlot<'v>>,
    /// Unique in this process.
    pub(crate) call_id: u64,
}

impl<'v> CallScope<'v> {
    /// A call in the caller's thread.
    #[inline]
    pub(crate) fn inline(request: &'v Request<'v>) -> Self {
        let call_id = next_call_id();
        let method = Method::Call;
        Self { request, lease: None, state: None, policy: None, method, batch_slot: None, call_id }
    }

    /// A call on a worker that holds a lease.
    #[inline]
    pub(crate) fn pooled(
        request: &'v Request<'v>,
        instance: &'v InstanceRef,
        state: &'v CallState,
    ) -> Self {
        let (lease, state) = (Some(instance), Some(state));
        Self { lease, state, method: Method::Execute, ..Self::inline(request) }
    }

    /// What a call is judged by that came with a lease.
    pub(crate) fn leased_policy(&self) -> Option<&'v CallPolicy> {
        self.policy.or_else(|| self.lease.map(|instance| &*instance.generation().policy))
    }

    fn origin(&self) -> CallOrigin {
        if self.lease.is_some() { CallOrigin::Admitted } else { CallOrigin::Caller }
    }
}

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// In the caller's thread: [`PluginHandle::call`](crate::PluginHandle::call).
    Call,
    /// In the caller's thread, on a generation that is held:
    /// [`Pinned::call`](crate::Pinned::call).
    Pinned,
    /// On a thread of the plugin's own, or as a task of the host's where the plugin is a process:
    /// [`PluginHandle::execute`](crate::PluginHandle::execute).
    Execute,
}

/// One step of the corridor that a call walks: a layer, or the slot at its end.
pub(crate) trait SyncService: Send + Sync {
    /// Walks on, to fill `reply`; runs in the caller's thread.
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error>;
}

impl Slot {
    /// An empty place.
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

    /// The number of the generation that is loaded next.
    pub(crate) fn next_generation(&self) -> GenerationId {
        GenerationId::after(self.generations.fetch_add(1, Ordering::Relaxed))
    }

    /// The current generation, beyond any lease.
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.current.load().as_ref().map(|instance| Arc::clone(instance.generation()))
    }

    /// A hold on the current generation that lasts.
    pub(crate) fn pin(&self) -> Result<Arc<InstanceRef>, Error> {
        if self.is_shutting_down() {
            return Err(self.unloaded_error());
        }
        match self.current.load_full() {
            Some(instance) => Ok(instance),
            None => self.wait_for_current(None),
        }
    }

    /// As [`pin`](Self::pin), without waiting while the plugin is paused.
    pub(crate) fn try_pin(&self) -> Result<Arc<InstanceRef>, Error> {
        self.current.load_full().ok_or_else(|| self.vacant_error())
    }

    /// Whether calls that say nothing special have nothing to look at.
    #[inline]
    pub(crate) fn fast_path_ok(&self) -> bool {
        self.health.flags.is_clear()
    }

    /// As [`policy`](Self::policy), for a moment: nothing is counted.
    pub(crate) fn load_policy(&self) -> arc_swap::Guard<Option<Arc<CallPolicy>>> {
        self.policy.load()
    }

    /// What pooled calls go by now.
    pub(crate) fn policy(&self) -> Option<Arc<CallPolicy>> {
        self.policy.load_full()
    }

    /// Whether calls of the current generation have to fit a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.health.flags.has(SlotFlag::Schema)
    }

    /// Goes on with what the call is judged by: the terms that it was judged by before, those
    /// of its lease, or those of the current generation.
    pub(crate) fn with_policy(
        &self,
        scope: &CallScope<'_>,
        go_on: impl FnOnce(&CallScope<'_>, &CallPolicy) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(policy) = scope.leased_policy() {
            return go_on(&CallScope { policy: Some(policy), ..*scope }, policy);
        }
        match &*self.policy.load() {
            Some(policy) => go_on(&CallScope { policy: Some(policy), ..*scope }, policy),
            None => Err(self.unloaded_error()),
        }
    }

    /// Judges a call that goes to another generation than the one whose terms it was judged
    /// by: there was a reload in between.
    #[inline]
    fn check(&self, instance: &InstanceRef, scope: &CallScope<'_>) -> Result<(), Error> {
        if !instance.checks_input() && scope.request.named_operation().is_none() {
            return Ok(());
        }
        self.recheck(instance, scope)
    }

    #[cold]
    fn recheck(&self, instance: &InstanceRef, scope: &CallScope<'_>) -> Result<(), Error> {
        let policy = &*instance.generation().policy;
        if scope.policy.is_some_and(|judged| std::ptr::eq(judged, policy)) {
            return Ok(());
        }
        policy.check(&self.name, scope.request)
    }

    /// Does `work` under a lease of `generation`, unless that is not current any more.
    pub(crate) fn with_lease<T>(
        &self,
        generation: u64,
        work: impl FnOnce(&InstanceRef) -> T,
    ) -> Option<T> {
        let current = self.current.load();
        let instance = current.as_deref()?;
        (instance.generation().id.get() == generation).then(|| work(instance))
    }

    /// Hears how a call ended that was let go on.
    #[cold]
    pub(crate) fn record_outcome(
        &self,
        pass: Admission,
        scope: &CallScope<'_>,
        outcome: &Result<(), Error>,
    ) {
        let mut was_late = scope.state.is_some_and(CallState::timed_out);
        if !was_late && outcome.as_ref().is_err_and(is_unanswered) {
            if scope.state.is_none_or(CallState::count_timeout_once) {
                self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
            } else {
                was_late = true;
            }
        }
        self.health.record_outcome(pass, was_late, outcome);
    }

    /// Lets a call go on, or refuses it.
    #[inline]
    pub(crate) fn admit(&self, scope: &CallScope<'_>) -> Result<Admission, Error> {
        if self.health.needs_check() {
            self.admit_slow(scope.origin())
        } else {
            Ok(Admission::Normal)
        }
    }

    #[cold]
    fn admit_slow(&self, coming: CallOrigin) -> Result<Admission, Error> {
        self.health.admit(coming, || self.queue.is_exhausted())
    }

    /// Refuses a call that is about to be queued for a plugin that is not called now. A probe
    /// is not begun by this.
    pub(crate) fn check_admission(&self) -> Result<(), Error> {
        if !self.health.needs_check() {
            return Ok(());
        }
        self.health.check(|| self.queue.is_exhausted())
    }

    /// Refuses a call that was taken back, or whose deadline has passed.
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

    /// What a call is told that was taken back before it began.
    #[cold]
    pub(crate) fn cancelled_before_start(&self) -> Error {
        let message = "was not called: its caller took the call back";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// Why nobody is current any more.
    #[cold]
    pub(crate) fn unloaded_error(&self) -> Error {
        if self.health.is_shutting_down() {
            return self.health.shutdown_error();
        }
        Error::new(ErrorKind::Retired, "was unloaded; look it up again").of(&self.name)
    }

    /// Whether the host ends.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.health.needs_check() && self.health.is_shutting_down()
    }

    /// Lets only those calls go on that have begun: the host ends.
    pub(crate) fn begin_shutdown(&self) {
        self.health.begin_shutdown();
    }
}

impl SyncService for Arc<Slot> {
    /// The end of the corridor: leases the current generation, unless the call came with a
    /// lease, by which it was judged, and calls it.
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
