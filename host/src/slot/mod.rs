//! The slot of a plugin: its current generation, how that changes (promote, vacate, pause, resume),
//! and the calls that lease it. Calls and reloads meet only here.

mod health;
mod queueing;
mod scope;

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::{Either, select};
use serde_json::Value;

use crate::call::{CallState, ReplySlot, Request};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind, bug};
use crate::event::EventBus;
use crate::generation::{CallArgs, CallPolicy, Generation, InstanceRef, is_in_plugin_call};
use crate::id::{GenerationId, PluginName};
use crate::metrics::Latencies;
use crate::sync::{Lease, LeaseCell, ProcessFences, Shard, deadline_in, has_passed, lock};
use crate::worker::{Queue, TimerEntry, TimerHandle};
pub(crate) use health::{Admission, Health};
use health::{CallOrigin, SlotFlag, is_unanswered};
pub use scope::Method;
pub(crate) use scope::{AsyncService, BatchCollector, BatchedCall, CallScope, SyncService};

/// A lease of the current instance of a slot.
pub(crate) type InstanceLease<'s> = Lease<'s, InstanceRef, ProcessFences>;

/// The slot of one plugin.
pub(crate) struct Slot {
    current: LeaseCell<InstanceRef, ProcessFences>,
    pub(crate) name: PluginName,
    pub(crate) counters: CallCounters,
    pub(crate) health: Health,
    queue: Queue,
    timer: TimerHandle,
    /// Whether calls may run as tasks: the application has no layers around them.
    supports_async: AtomicBool,
    /// Whether the calls of the current generation run as tasks, if `supports_async`.
    runs_tasks: AtomicBool,
    /// The policy for calls of the current generation; `None` before the first.
    policy: ArcSwapOption<CallPolicy>,
    generations: AtomicU64,
    /// The reason no generation is current.
    vacant: Mutex<Vacant>,
    changed: Condvar,
    /// Maximum time that a call waits while the plugin is paused.
    pause_timeout: Duration,
}

/// The reason no generation is current.
enum Vacant {
    /// None was loaded yet.
    Empty,
    /// The plugin was unloaded.
    Unloaded,
    /// The generation finishes its running calls, and is then resumed or replaced. It is taken
    /// from here when it is unloaded.
    Paused(Weak<InstanceRef>, Option<Arc<Generation>>),
}

/// A paused slot, and the generation that served before.
#[must_use]
#[derive(Debug)]
pub(crate) struct Paused {
    pub(crate) generation: Arc<Generation>,
    instance: Weak<InstanceRef>,
}

/// One call in this many is timed; a power of two.
pub(crate) const SAMPLED_ONE_IN: u32 = 64;

/// The counters of a slot.
#[derive(Debug)]
pub(crate) struct CallCounters {
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

/// A policy that a call is checked against.
pub(crate) enum PolicyRef<'c> {
    /// That of the call's lease.
    Leased(&'c CallPolicy),
    /// That of the generation that was current when the call was checked, if there was one.
    Current(arc_swap::Guard<Option<Arc<CallPolicy>>>),
}

impl PolicyRef<'_> {
    pub(crate) fn get(&self) -> Option<&CallPolicy> {
        match self {
            Self::Leased(policy) => Some(policy),
            Self::Current(policy) => policy.as_deref(),
        }
    }
}

/// Counters of a reply cache.
#[derive(Debug, Default)]
pub(crate) struct CacheMeter {
    /// Calls answered from the cache.
    pub(crate) hits: AtomicU64,
    /// Lookups without a result.
    pub(crate) misses: AtomicU64,
    /// Bytes held now.
    pub(crate) bytes: AtomicU64,
}

/// Slots among the concurrent calls; released on drop.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    policy: Arc<CallPolicy>,
    calls: u32,
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
            current: LeaseCell::new(ProcessFences::get()),
            name,
            counters,
            health,
            queue: Queue::new(),
            timer,
            supports_async: AtomicBool::new(false),
            runs_tasks: AtomicBool::new(false),
            policy: ArcSwapOption::empty(),
            generations: AtomicU64::new(0),
            vacant: Mutex::new(Vacant::Empty),
            changed: Condvar::new(),
            pause_timeout,
        }
    }

    /// Counts a call, including one that was rejected.
    #[inline(always)]
    pub(crate) fn count_call(&self, shard: Shard) {
        self.current.count_by(shard);
    }

    /// Returns the number of calls.
    pub(crate) fn calls(&self) -> u64 {
        self.current.count().unsigned_abs()
    }

    /// Returns the number of the next generation.
    pub(crate) fn next_generation(&self) -> GenerationId {
        GenerationId::after(self.generations.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the current generation, without a lease.
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.current().map(|instance| Arc::clone(instance.generation()))
    }

    /// Returns the current instance, and waits for it while the plugin is paused.
    pub(crate) fn pin(&self) -> Result<Arc<InstanceRef>, Error> {
        if self.is_shutting_down() {
            return Err(self.unloaded_error());
        }
        match self.current.get() {
            Some(instance) => Ok(instance),
            None => self.wait_for_current(None),
        }
    }

    /// Returns the current instance like [`pin`](Self::pin), but fails while the plugin is paused.
    pub(crate) fn try_pin(&self) -> Result<Arc<InstanceRef>, Error> {
        self.current.get().ok_or_else(|| self.vacant_error())
    }

    /// Returns whether the slot has nothing to check for a call without options.
    #[inline]
    pub(crate) fn fast_path_ok(&self) -> bool {
        self.health.flags.is_slot_clear()
    }

    /// Returns whether neither the slot nor the application has anything to do for a call without
    /// options.
    #[inline]
    pub(crate) fn brief_path_ok(&self) -> bool {
        self.health.flags.is_clear()
    }

    /// Returns whether no call was timed yet.
    pub(crate) fn is_untimed(&self) -> bool {
        self.health.flags.has(SlotFlag::Untimed)
    }

    /// Records the duration of a sampled call.
    pub(crate) fn record_latency(&self, duration: Duration) {
        self.counters.latencies.record(duration);
        if self.is_untimed() {
            self.health.flags.set(SlotFlag::Untimed, false);
        }
    }

    /// Leases the current instance for the thread that has this shard, unless there is none or it is
    /// replaced at this moment.
    #[inline(always)]
    pub(crate) fn try_current(&self, shard: Shard) -> Option<InstanceLease<'_>> {
        self.current.try_lease_by(shard)
    }

    /// Leases the current instance, if there is one.
    #[inline]
    pub(crate) fn current(&self) -> Option<InstanceLease<'_>> {
        self.current.lease()
    }

    /// Records that the application has layers, validators or a cache around the calls.
    pub(crate) fn set_layered(&self, is_layered: bool) {
        self.health.flags.set(SlotFlag::Layers, is_layered);
    }

    /// Returns the policy like [`policy`](Self::policy), without incrementing the reference count.
    pub(crate) fn load_policy(&self) -> arc_swap::Guard<Option<Arc<CallPolicy>>> {
        self.policy.load()
    }

    /// Returns the policy for calls of the current generation.
    pub(crate) fn policy(&self) -> Option<Arc<CallPolicy>> {
        self.policy.load_full()
    }

    /// Returns the schema that inputs are validated against.
    pub(crate) fn input_schema(&self) -> Option<Arc<Value>> {
        let policy = self.policy.load();
        let checker = policy.as_ref()?.input_schema.as_ref()?;
        Some(Arc::clone(checker.schema()))
    }

    /// Returns whether inputs are validated against a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.health.flags.has(SlotFlag::Schema)
    }

    /// Returns the policy to check a call against: the one it was checked against before, that of
    /// its lease, or that of the current generation.
    pub(crate) fn policy_for<'c>(&self, scope: &CallScope<'c>) -> PolicyRef<'c> {
        match scope.leased_policy() {
            Some(policy) => PolicyRef::Leased(policy),
            // Without incrementing a reference count that all callers share.
            None => PolicyRef::Current(self.policy.load()),
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
        let instance = self.current()?;
        (instance.generation().id.get() == generation).then(|| run(&instance))
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
            Some(deadline) if has_passed(deadline) => {
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

    /// Returns the instance of this generation if it is current.
    pub(crate) fn lease(&self, generation: u64) -> Option<Arc<InstanceRef>> {
        self.current.get().filter(|instance| instance.generation().id.get() == generation)
    }

    /// Sets whether calls may run as tasks.
    pub(crate) fn set_supports_async(&self, supports_async: bool) {
        self.supports_async.store(supports_async, Ordering::Relaxed);
    }

    /// Returns whether calls may run as tasks.
    pub(crate) fn supports_async(&self) -> bool {
        self.supports_async.load(Ordering::Relaxed)
    }

    /// Fires `entry` at `due`.
    pub(crate) fn schedule(&self, due: Instant, entry: &Arc<dyn TimerEntry>) {
        self.timer.schedule(due, entry);
    }

    /// Returns whether the next call may be a probe, so that calls must not be batched.
    pub(crate) fn is_probing(&self) -> bool {
        self.health.needs_check()
    }

    /// Returns the error of a call that was cancelled while it ran.
    #[cold]
    pub(crate) fn cancelled_error(&self) -> Error {
        let message = "was called, but the caller cancelled the call";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// Returns the error of a call that outlasted the unload of its generation.
    #[cold]
    fn aborted_error(&self, instance: &InstanceRef) -> Error {
        let message = "was unloaded before it answered: the call exceeded the host's \
                       `drain_timeout`";
        let error = Error::new(ErrorKind::Retired, message).with_hint("call again").of(&self.name);
        error.in_generation(instance.generation().id)
    }

    /// Awaits `answer` until the call is cancelled or the generation aborts its calls; then drops
    /// it, which ends the exchange.
    pub(crate) async fn until_cancelled<T>(
        &self,
        instance: &InstanceRef,
        state: &CallState,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let ended = pin!(instance.generation().calls_aborted());
        let cancelled = pin!(state.ended());
        match select(pin!(answer), select(cancelled, ended)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((Either::Left(_), _)) => {
                Err(self.cancelled_error().in_generation(instance.generation().id))
            }
            Either::Right((Either::Right(_), _)) => Err(self.aborted_error(instance)),
        }
    }

    /// Returns whether the number of concurrent calls is limited.
    #[inline]
    pub(crate) fn limits_in_flight(&self) -> bool {
        self.health.flags.has(SlotFlag::InFlight)
    }

    /// Takes a slot for one call of the current generation.
    pub(crate) fn enter_in_flight(&self) -> Result<Option<InFlightGuard>, Error> {
        match self.enter_many(1) {
            Some(none) if none.calls == 0 => {
                let max = none.policy.max_in_flight.unwrap_or_default();
                let message = format!(
                    "was not called: its limit of calls in flight is reached (`limits.in_flight` is {max})"
                );
                let error = Error::new(ErrorKind::Overloaded, message)
                    .with_hint("raise `limits.in_flight`, or retry later");
                Err(self.with_estimate(error, 1, max).of(&self.name))
            }
            entered => Ok(entered),
        }
    }

    /// Takes up to `wanted` slots; `None` if calls are not limited.
    pub(crate) fn enter_many(&self, wanted: u32) -> Option<InFlightGuard> {
        let policy = self.policy.load_full()?;
        let max = policy.max_in_flight?;
        let left = |now: u32| max.saturating_sub(now).min(wanted);
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        let before =
            policy.in_flight.fetch_update(success, failure, |now| now.checked_add(left(now)));
        let calls = before.map_or(0, left);
        Some(InFlightGuard { policy, calls })
    }
}

impl SyncService for Arc<Slot> {
    /// Calls the instance that the scope leases, or leases the current one.
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let CallScope { request, state, call_id, .. } = *scope;
        let args = CallArgs { request, state, call_id };
        if let Some(instance) = scope.lease {
            return instance.call(args, reply);
        }
        match self.current() {
            Some(instance) => {
                self.check(&instance, scope)?;
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

impl AsyncService for Arc<Slot> {
    /// Calls the leased generation, or hands the call to its batch.
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> Result<(), Error> {
        let CallScope { request, call_id, .. } = *scope;
        let (Some(instance), Some(state)) = (scope.lease, scope.state) else {
            return Err(bug!("a task called `{}` without a lease", self.name));
        };
        if let Some(batch_slot) = scope.batch_slot {
            let answer = batch_slot.wait(call_id).await;
            reply.set(answer.map_err(|error| error.of_if_unset(&self.name))?);
            return Ok(());
        }
        let args = CallArgs { request, state: Some(state), call_id };
        self.until_cancelled(instance, state, instance.call_async(args, reply)).await
    }
}

impl Slot {
    /// Makes a generation current and returns the previous one, which drains. Returns the new
    /// instance as an error if the plugin was unloaded meanwhile.
    pub(crate) fn promote(
        self: &Arc<Self>,
        instance: InstanceRef,
    ) -> Result<Option<Arc<Generation>>, Arc<InstanceRef>> {
        let generation = Arc::clone(instance.generation());
        let instance = Arc::new(instance);
        let before = {
            let mut vacant = lock(&self.vacant);
            if matches!(*vacant, Vacant::Unloaded) {
                return Err(instance);
            }
            *vacant = Vacant::Empty;
            self.current.replace(Some(instance), |before| mark_not_current(before))
        };
        self.changed.notify_all();
        self.health.reset(generation.id);
        let policy = &generation.policy;
        let flags = &self.health.flags;
        flags.set(SlotFlag::InFlight, policy.max_in_flight.is_some());
        // Set before the policy is published, so that a call that sees the policy sees the flag.
        flags.set(SlotFlag::Schema, policy.checks_input());
        self.policy.store(Some(Arc::clone(policy)));
        self.start_epoch(&generation);
        Ok(before)
    }

    /// Rejects all further calls and returns the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let (current, vacant) = {
            let mut vacant = lock(&self.vacant);
            let vacant = std::mem::replace(&mut *vacant, Vacant::Unloaded);
            // Before the swap, so that calls of pinned handles fail no later than new calls.
            if let Some(current) = self.current() {
                mark_not_current(&current);
            }
            (self.current.replace(None, |current| Arc::clone(current.generation())), vacant)
        };
        self.changed.notify_all();
        self.queue.close();
        match (current, vacant) {
            (Some(current), _) => Some(current),
            (None, Vacant::Paused(_, paused)) => paused,
            (None, _) => None,
        }
    }

    /// Makes new calls wait while the running ones finish; `None` if no generation is current.
    pub(crate) fn pause(&self) -> Option<Paused> {
        let paused = {
            let mut vacant = lock(&self.vacant);
            let paused = self.current.replace(None, |current| Paused {
                generation: mark_not_current(current),
                instance: Arc::downgrade(current),
            })?;
            let generation = Arc::clone(&paused.generation);
            *vacant = Vacant::Paused(Weak::clone(&paused.instance), Some(generation));
            paused
        };
        self.queue.suspend();
        Some(paused)
    }

    /// Returns whether calls wait for the end of a reload.
    pub(crate) fn is_paused(&self) -> bool {
        matches!(&*lock(&self.vacant), Vacant::Paused(..))
    }

    /// Takes a paused generation out of the slot; the caller unloads it.
    pub(crate) fn take_paused(&self, paused: &Paused) -> Result<Arc<Generation>, Error> {
        let mut vacant = lock(&self.vacant);
        match &mut *vacant {
            Vacant::Paused(_, generation) => {
                *generation = None;
                // Its workers exit; queued calls wait for those of the next generation.
                let _ = self.queue.start_epoch(0, paused.generation.policy.queue);
                Ok(Arc::clone(&paused.generation))
            }
            // It was unloaded meanwhile.
            _ => Err(self.unloaded_error()),
        }
    }

    /// Waits for the leases of a paused generation. Returns an instance that stands for all of
    /// them, or the number of leases that remain after `timeout`.
    pub(crate) fn drain(
        &self,
        paused: &Paused,
        timeout: Duration,
    ) -> Result<Arc<InstanceRef>, usize> {
        match paused.generation.take_backend(timeout) {
            Some(backend) => {
                let generation = Arc::clone(&paused.generation);
                Ok(Arc::new(InstanceRef::resumed(generation, backend)))
            }
            None => Err(self.current.uses(&paused.instance)),
        }
    }

    /// Makes a paused generation current again. `instance` is what [`drain`](Self::drain) returned,
    /// if the generation was drained.
    pub(crate) fn resume(self: &Arc<Self>, paused: Paused, instance: Option<Arc<InstanceRef>>) {
        let instance = instance.or_else(|| paused.instance.upgrade()).or_else(|| {
            // The last lease was just released.
            let backend = paused.generation.take_backend(Duration::from_secs(1))?;
            Some(Arc::new(InstanceRef::resumed(Arc::clone(&paused.generation), backend)))
        });
        {
            let mut vacant = lock(&self.vacant);
            if matches!(*vacant, Vacant::Unloaded) {
                // The unload also ends the paused generation.
                return;
            }
            paused.generation.set_current(instance.is_some());
            *vacant = Vacant::Empty;
            self.current.replace(instance, |_| ());
        }
        self.changed.notify_all();
        self.resume_workers();
    }

    /// Waits for a current generation while the plugin is paused. A call made from inside a lease
    /// runs on the paused generation instead, since the pause may wait for that lease.
    #[cold]
    fn wait_for_current(&self, request: Option<&Request<'_>>) -> Result<Arc<InstanceRef>, Error> {
        let deadline = deadline_in(self.pause_timeout);
        let mut vacant = lock(&self.vacant);
        loop {
            if let Some(request) = request {
                self.check_active(request)?;
            }
            if let Some(instance) = self.current.get() {
                return Ok(instance);
            }
            let Vacant::Paused(before, _) = &*vacant else { return Err(self.unloaded_error()) };
            if is_in_plugin_call()
                && let Some(instance) = before.upgrade()
            {
                return Ok(instance);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.pause_timeout_error());
            }
            let left = left.min(request.map_or(Duration::MAX, poll_interval));
            let waited = self.changed.wait_timeout(vacant, left);
            vacant = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the error of a call that finds no current generation and does not wait.
    fn vacant_error(&self) -> Error {
        if matches!(&*lock(&self.vacant), Vacant::Paused(..)) {
            return Error::new(ErrorKind::Overloaded, "is being reloaded")
                .with_hint("retry later")
                .of(&self.name);
        }
        self.unloaded_error()
    }

    fn pause_timeout_error(&self) -> Error {
        let waited = self.pause_timeout.as_millis();
        let message =
            format!("was not called: it is being reloaded, and the call waited {waited} ms");
        Error::new(ErrorKind::Overloaded, message).with_hint("retry later").of(&self.name)
    }
}

/// Returns how soon a waiting call is checked again. A cancelled token does not wake it.
fn poll_interval(request: &Request<'_>) -> Duration {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    let deadline = request.deadline().map_or(Duration::MAX, left);
    let token = request.cancellation_token().map_or(Duration::MAX, |_| TOKEN_POLL_INTERVAL);
    deadline.min(token).max(Duration::from_micros(50))
}

const TOKEN_POLL_INTERVAL: Duration = Duration::from_millis(5);

fn mark_not_current(instance: &InstanceRef) -> Arc<Generation> {
    instance.generation().set_current(false);
    Arc::clone(instance.generation())
}

impl InFlightGuard {
    /// Returns the number of slots taken.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.policy.in_flight.fetch_sub(self.calls, Ordering::Relaxed);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}
