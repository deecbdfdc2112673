//! The health of a plugin: whether it is quarantined or its host is shutting down. One flag lets
//! calls skip these checks.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::{EventBus, HostEvent, QuarantineReason};
use crate::generation::recovery::{AdmissionDecision, Decision, History, Probe, ProbeEffect};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// The health of the plugin in a slot.
pub(crate) struct Health {
    pub(super) flags: SlotFlags,
    inner: Mutex<Inner>,
    policy: Option<Quarantine>,
    name: PluginName,
    events: EventBus,
}

#[derive(Default)]
struct Inner {
    history: History,
    /// Abandoned calls, if they hold all workers that may be replaced.
    stuck: Option<usize>,
    /// Allocated bytes and their limit, if they exceed it.
    memory: Option<(i64, u64)>,
    /// Whether the host is shutting down: only started calls continue.
    is_shutting_down: bool,
}

impl Inner {
    fn is_quarantined(&self) -> bool {
        self.history.is_quarantined() || self.stuck.is_some() || self.memory.is_some()
    }
}

/// Permission for a call to continue.
#[must_use]
#[derive(Debug)]
pub(crate) enum Admission {
    /// An ordinary call.
    Normal,
    /// A probe: its outcome decides whether the quarantine of this generation ends.
    Probe(Probe),
}

/// The origin of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOrigin {
    /// From the caller.
    Caller,
    /// Under a lease, or from the queue.
    Admitted,
}

impl Health {
    /// Creates the state of a healthy plugin.
    pub(super) fn new(name: PluginName, policy: Option<Quarantine>, events: EventBus) -> Self {
        Self {
            flags: SlotFlags(AtomicU8::new(SlotFlag::Untimed as u8)),
            inner: Mutex::default(),
            policy,
            name,
            events,
        }
    }

    /// Discards the history of the previous generation and starts that of `generation`.
    pub(super) fn reset(&self, generation: GenerationId) {
        self.emit_if_restored(|inner| {
            let was_quarantined = inner.is_quarantined();
            inner.history = History::new(generation.get());
            (inner.stuck, inner.memory) = (None, None);
            was_quarantined
        });
    }

    /// Rejects calls that have not started.
    pub(super) fn begin_shutdown(&self) {
        self.update(|inner| inner.is_shutting_down = true);
    }

    /// Changes the state and updates the flag that calls check.
    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let changed = change(&mut inner);
        self.flags.set(SlotFlag::Health, inner.is_quarantined() || inner.is_shutting_down);
        changed
    }

    /// Returns whether calls must [`admit`](Self::admit).
    #[inline]
    pub(super) fn needs_check(&self) -> bool {
        self.flags.has(SlotFlag::Health)
    }

    /// Admits or rejects a call. `is_stuck` reports whether the workers are still stuck.
    #[cold]
    pub(super) fn admit(
        &self,
        origin: CallOrigin,
        is_stuck: impl FnOnce() -> bool,
    ) -> Result<Admission, Error> {
        if self.is_stuck() && !is_stuck() {
            self.release_stuck();
        }
        self.update(|inner| {
            if inner.is_shutting_down {
                let admitted = origin == CallOrigin::Admitted;
                return if admitted { Ok(Admission::Normal) } else { Err(self.shutdown_error()) };
            }
            if let Some(reason) = inner.hold_reason() {
                return Err(self.quarantined_error(&reason.to_string()));
            }
            match inner.history.admit(Instant::now()) {
                AdmissionDecision::Allow => Ok(Admission::Normal),
                AdmissionDecision::Probe(probe) => Ok(Admission::Probe(probe)),
                AdmissionDecision::Reject { probe_in } => {
                    let wait = probe_in.as_millis();
                    let reason = format!("repeated faults; the next probe is in {wait} ms");
                    Err(self.quarantined_error(&reason).with_retry_after(probe_in))
                }
            }
        })
    }

    /// Returns the error with which a call would be rejected now. Starts no probe.
    #[cold]
    pub(super) fn check(&self, is_stuck: impl FnOnce() -> bool) -> Result<(), Error> {
        if self.is_stuck() && !is_stuck() {
            self.release_stuck();
        }
        let inner = lock(&self.inner);
        if inner.is_shutting_down {
            return Err(self.shutdown_error());
        }
        match inner.hold_reason() {
            Some(reason) => Err(self.quarantined_error(&reason.to_string())),
            None => Ok(()),
        }
    }

    fn quarantined_error(&self, why: &str) -> Error {
        Error::new(ErrorKind::Quarantined, format!("is quarantined: {why}")).of(&self.name)
    }

    /// Returns the error of a call during or after shutdown.
    pub(super) fn shutdown_error(&self) -> Error {
        let message = "was not called: its host was shut down, or the last `Host` was dropped";
        Error::new(ErrorKind::Shutdown, message).of(&self.name)
    }

    /// Returns whether the host is shutting down.
    pub(super) fn is_shutting_down(&self) -> bool {
        lock(&self.inner).is_shutting_down
    }

    /// Records the outcome of an admitted call.
    #[inline]
    pub(crate) fn record_outcome(
        &self,
        admission: Admission,
        timed_out: bool,
        outcome: &Result<(), Error>,
    ) {
        match (outcome, admission) {
            (Ok(()), Admission::Normal) => {}
            // The timeout was recorded when the deadline passed.
            _ if timed_out => {}
            (Ok(()), Admission::Probe(probe)) => self.record_probe_success(probe),
            (Err(error), Admission::Normal) => self.record_failure(error),
            (Err(error), Admission::Probe(probe)) => self.record_probe_failure(probe, error),
        }
    }

    #[cold]
    fn record_failure(&self, error: &Error) {
        if (error.kind() == ErrorKind::Panicked || is_unanswered(error))
            && let Some(generation) = error.generation()
        {
            self.record_fault(generation.get(), false);
        }
    }

    #[cold]
    fn record_probe_failure(&self, probe: Probe, error: &Error) {
        match error.kind() {
            ErrorKind::Panicked | ErrorKind::Disconnected | ErrorKind::Protocol => {
                self.record_fault(probe.generation, true);
            }
            _ if is_unanswered(error) => self.record_fault(probe.generation, true),
            // The plugin works and rejected the input.
            ErrorKind::Plugin | ErrorKind::InvalidOutput => self.record_probe_success(probe),
            _ => lock(&self.inner).history.probe_cancelled(probe),
        }
    }

    /// Records that a call of `generation` exceeded its deadline; `probe` is its probe number.
    pub(super) fn record_timeout(&self, generation: u64, probe: Option<u64>) {
        let is_probe = probe.is_some() && lock(&self.inner).history.probing() == probe;
        self.record_fault(generation, is_probe);
    }

    /// Records a fault of `generation`.
    #[cold]
    pub(crate) fn record_fault(&self, generation: u64, probe: bool) {
        let now = Instant::now();
        let policy = self.policy.as_ref();
        let decision = self.update(|inner| inner.history.fault(generation, now, probe, policy));
        if let Decision::Quarantine { faults, back_off } = decision {
            self.emit_quarantined(QuarantineReason::Faults { faults }, Some(back_off));
        }
    }

    /// Records that abandoned calls hold all workers that may be replaced.
    pub(super) fn hold_stuck(&self, calls: usize) {
        if self.policy.is_none() {
            return;
        }
        if self.update(|inner| inner.stuck.replace(calls)).is_none() {
            self.emit_quarantined(QuarantineReason::Stuck { calls }, None);
        }
    }

    /// Records that one of the abandoned calls returned.
    pub(super) fn release_stuck(&self) {
        self.emit_if_restored(|inner| inner.stuck.take().is_some());
    }

    fn is_stuck(&self) -> bool {
        lock(&self.inner).stuck.is_some()
    }

    /// Sets the allocated bytes and the limit that they exceed; `None` if they are within it.
    pub(super) fn set_memory(&self, over: Option<(i64, u64)>) {
        let Some((live_bytes, limit_bytes)) = over else {
            return self.emit_if_restored(|inner| inner.memory.take().is_some());
        };
        if self.update(|inner| inner.memory.replace((live_bytes, limit_bytes))).is_none() {
            self.emit_quarantined(QuarantineReason::Memory { live_bytes, limit_bytes }, None);
        }
    }

    #[cold]
    fn record_probe_success(&self, probe: Probe) {
        self.emit_if_restored(|inner| {
            inner.history.probe_succeeded(probe) == ProbeEffect::Restored
        });
    }

    fn emit_if_restored(&self, lifted: impl FnOnce(&mut Inner) -> bool) {
        if self.update(|inner| lifted(inner) && !inner.is_quarantined()) {
            self.events.emit(HostEvent::Restored { plugin: self.name.clone() });
        }
    }

    fn emit_quarantined(&self, reason: QuarantineReason, probe_in: Option<Duration>) {
        let plugin = self.name.clone();
        self.events.emit(HostEvent::Quarantined { plugin, reason, probe_in });
    }

    /// Emits an event of this plugin's host.
    pub(crate) fn emit(&self, event: HostEvent) {
        self.events.emit(event);
    }

    /// Returns whether calls are rejected now.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.needs_check() && lock(&self.inner).is_quarantined()
    }
}

/// Returns whether the plugin received the call and did not answer in time. Such an error names a
/// generation.
pub(super) fn is_unanswered(error: &Error) -> bool {
    error.kind() == ErrorKind::DeadlineExceeded && error.generation().is_some()
}

impl Inner {
    /// Returns the reason other than faults for which calls are rejected.
    fn hold_reason(&self) -> Option<QuarantineReason> {
        let stuck = self.stuck.map(|calls| QuarantineReason::Stuck { calls });
        let (live_bytes, limit_bytes) = match (stuck, self.memory) {
            (Some(stuck), _) => return Some(stuck),
            (None, memory) => memory?,
        };
        Some(QuarantineReason::Memory { live_bytes, limit_bytes })
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("quarantined", &self.is_quarantined())
            .finish_non_exhaustive()
    }
}

/// A set of [`SlotFlag`]s.
#[derive(Debug)]
pub(crate) struct SlotFlags(AtomicU8);

/// A condition that calls must check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotFlag {
    /// The plugin is quarantined, or its host is shutting down.
    Health = 1,
    /// Inputs are validated against a schema.
    Schema = 2,
    /// The number of concurrent calls is limited.
    InFlight = 4,
    /// The application has layers, validators or a cache around the calls.
    Layers = 8,
    /// No call was timed yet.
    Untimed = 16,
}

/// The flags of middleware that is part of the slot.
const SLOT_FLAGS: u8 = SlotFlag::Health as u8 | SlotFlag::Schema as u8 | SlotFlag::InFlight as u8;

impl SlotFlags {
    /// Returns whether no flag is set.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Returns whether no flag of the slot's own middleware is set.
    #[inline]
    pub(crate) fn is_slot_clear(&self) -> bool {
        self.0.load(Ordering::Relaxed) & SLOT_FLAGS == 0
    }

    /// Returns whether `flag` is set.
    #[inline]
    pub(crate) fn has(&self, flag: SlotFlag) -> bool {
        self.0.load(Ordering::Relaxed) & flag as u8 != 0
    }

    pub(crate) fn set(&self, flag: SlotFlag, on: bool) {
        if on {
            self.0.fetch_or(flag as u8, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!(flag as u8), Ordering::Relaxed);
        }
    }
}
