//! Whether the plugin of a slot may be called: what the breaker asks, in one word where nothing
//! is wrong.

use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use super::attention::{Attention, Reason};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::{Board, HostEvent, QuarantineReason};
use crate::generation::recovery::{Admission, Decision, History, Probe, Success};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// Whether the plugin of a slot may be called.
pub(crate) struct Health {
    pub(super) attention: Attention,
    inner: Mutex<Inner>,
    policy: Option<Quarantine>,
    name: PluginName,
    board: Board,
}

#[derive(Default)]
struct Inner {
    history: History,
    /// Calls that nobody waits for any more hold as many workers as may be replaced.
    stuck: Option<usize>,
    /// Bytes that are held, and the limit that they are over.
    memory: Option<(i64, u64)>,
    /// The host is ending: only calls that have begun go on.
    is_ending: bool,
}

impl Inner {
    fn is_quarantined(&self) -> bool {
        self.history.is_quarantined() || self.stuck.is_some() || self.memory.is_some()
    }
}

/// A call that may go on.
#[must_use]
#[derive(Debug)]
pub(crate) enum Pass {
    /// An ordinary call.
    Usual,
    /// What comes of it decides about the quarantine of this generation.
    Probe(Probe),
}

/// How a call came here, as far as it matters for being let go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coming {
    /// From the caller.
    Freshly,
    /// Under a lease, or from the queue.
    Admitted,
}

impl Health {
    /// A plugin that nothing is held against.
    pub(super) fn new(name: PluginName, policy: Option<Quarantine>, board: Board) -> Self {
        let attention = Attention::default();
        Self { attention, inner: Mutex::default(), policy, name, board }
    }

    /// Forgets what was held against the build before; from here on `generation` is judged.
    pub(super) fn forget(&self, generation: GenerationId) {
        self.tell_if_restored(|inner| {
            let was_quarantined = inner.is_quarantined();
            inner.history = History::new(generation.get());
            (inner.stuck, inner.memory) = (None, None);
            was_quarantined
        });
    }

    /// Lets only those calls go on that have begun.
    pub(super) fn end(&self) {
        self.change(|inner| inner.is_ending = true);
    }

    /// Changes something, and tells those that call whether they have to ask.
    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let changed = change(&mut inner);
        self.attention.set(Reason::Health, inner.is_quarantined() || inner.is_ending);
        changed
    }

    /// Whether calls have to [`ask`](Self::ask).
    #[inline]
    pub(super) fn has_to_ask(&self) -> bool {
        self.attention.has(Reason::Health)
    }

    /// Lets a call go on, or refuses it. `is_stuck` is asked where that may be over.
    #[cold]
    pub(super) fn ask(
        &self,
        coming: Coming,
        is_stuck: impl FnOnce() -> bool,
    ) -> Result<Pass, Error> {
        if self.is_held_as_stuck() && !is_stuck() {
            self.unstuck();
        }
        self.change(|inner| {
            if inner.is_ending {
                let admitted = coming == Coming::Admitted;
                return if admitted { Ok(Pass::Usual) } else { Err(self.ending()) };
            }
            if let Some(reason) = inner.hold() {
                return Err(self.refused(&reason.to_string()));
            }
            match inner.history.admit(Instant::now()) {
                Admission::Go => Ok(Pass::Usual),
                Admission::Probe(probe) => Ok(Pass::Probe(probe)),
                Admission::Refuse { probe_in } => {
                    let wait = probe_in.as_millis();
                    Err(self.refused(&format!("repeated faults; the next probe is in {wait} ms")))
                }
            }
        })
    }

    /// Whether a call would be refused now; begins no probe.
    #[cold]
    pub(super) fn peek(&self, is_stuck: impl FnOnce() -> bool) -> Result<(), Error> {
        if self.is_held_as_stuck() && !is_stuck() {
            self.unstuck();
        }
        let inner = lock(&self.inner);
        if inner.is_ending {
            return Err(self.ending());
        }
        match inner.hold() {
            Some(reason) => Err(self.refused(&reason.to_string())),
            None => Ok(()),
        }
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(ErrorKind::Quarantined, format!("is quarantined after {why}")).of(&self.name)
    }

    /// What a call is told while the host ends.
    pub(super) fn ending(&self) -> Error {
        let message =
            "is not called any more: its host was shut down, or the last `Host` was dropped";
        Error::new(ErrorKind::Shutdown, message).of(&self.name)
    }

    /// Whether the host is ending.
    pub(super) fn is_ending(&self) -> bool {
        lock(&self.inner).is_ending
    }

    /// Hears how a call ended that was let go on.
    #[inline]
    pub(crate) fn outcome(&self, pass: Pass, was_late: bool, outcome: &Result<(), Error>) {
        match (outcome, pass) {
            (Ok(()), Pass::Usual) => {}
            // That it was late is held against it already.
            _ if was_late => {}
            (Ok(()), Pass::Probe(probe)) => self.probe_succeeded(probe),
            (Err(error), Pass::Usual) => self.failed(error),
            (Err(error), Pass::Probe(probe)) => self.probe_failed(probe, error),
        }
    }

    #[cold]
    fn failed(&self, error: &Error) {
        if (error.kind() == ErrorKind::Panicked || is_unanswered(error))
            && let Some(generation) = error.generation()
        {
            self.fault(generation.get(), false);
        }
    }

    #[cold]
    fn probe_failed(&self, probe: Probe, error: &Error) {
        match error.kind() {
            ErrorKind::Panicked | ErrorKind::Disconnected | ErrorKind::Protocol => {
                self.fault(probe.generation, true);
            }
            _ if is_unanswered(error) => self.fault(probe.generation, true),
            // The plugin worked, and said no.
            ErrorKind::Plugin | ErrorKind::Output => self.probe_succeeded(probe),
            _ => lock(&self.inner).history.probe_undone(probe),
        }
    }

    /// A call of `generation` did not answer in time; `probe` is its number if it was one.
    pub(super) fn late(&self, generation: u64, probe: Option<u64>) {
        let is_probe = probe.is_some() && lock(&self.inner).history.probing() == probe;
        self.fault(generation, is_probe);
    }

    /// A fault of `generation`, wherever it happened.
    #[cold]
    pub(crate) fn fault(&self, generation: u64, probe: bool) {
        let now = Instant::now();
        let policy = self.policy.as_ref();
        let decision = self.change(|inner| inner.history.fault(generation, now, probe, policy));
        if let Decision::Quarantine { faults, back_off } = decision {
            let probe_in_ms = u64::try_from(back_off.as_millis()).unwrap_or(u64::MAX);
            self.tell_quarantine(QuarantineReason::Faults { faults }, Some(probe_in_ms));
        }
    }

    /// So many calls are stuck that nobody waits for, and no further worker is started.
    pub(super) fn stuck(&self, calls: usize) {
        if self.policy.is_none() {
            return;
        }
        if self.change(|inner| inner.stuck.replace(calls)).is_none() {
            self.tell_quarantine(QuarantineReason::Stuck { calls }, None);
        }
    }

    /// One of the calls that were stuck has come back.
    pub(super) fn unstuck(&self) {
        self.tell_if_restored(|inner| inner.stuck.take().is_some());
    }

    fn is_held_as_stuck(&self) -> bool {
        lock(&self.inner).stuck.is_some()
    }

    /// What is held of memory, and the limit, if that is over it.
    pub(super) fn memory(&self, over: Option<(i64, u64)>) {
        let Some((live_bytes, limit_bytes)) = over else {
            return self.tell_if_restored(|inner| inner.memory.take().is_some());
        };
        if self.change(|inner| inner.memory.replace((live_bytes, limit_bytes))).is_none() {
            self.tell_quarantine(QuarantineReason::Memory { live_bytes, limit_bytes }, None);
        }
    }

    #[cold]
    fn probe_succeeded(&self, probe: Probe) {
        self.tell_if_restored(|inner| inner.history.probe_succeeded(probe) == Success::Restored);
    }

    fn tell_if_restored(&self, lifted: impl FnOnce(&mut Inner) -> bool) {
        if self.change(|inner| lifted(inner) && !inner.is_quarantined()) {
            self.board.tell(HostEvent::Restored { plugin: self.name.clone() });
        }
    }

    fn tell_quarantine(&self, reason: QuarantineReason, probe_in_ms: Option<u64>) {
        let plugin = self.name.clone();
        self.board.tell(HostEvent::Quarantined { plugin, reason, probe_in_ms });
    }

    /// Tells the board.
    pub(crate) fn tell(&self, event: HostEvent) {
        self.board.tell(event);
    }

    /// Whether calls are refused now.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.has_to_ask() && lock(&self.inner).is_quarantined()
    }
}

/// Whether it tells that a generation was asked and did not answer in time. Without one, nobody
/// was asked.
pub(super) fn is_unanswered(error: &Error) -> bool {
    error.kind() == ErrorKind::DeadlineExceeded && error.generation().is_some()
}

impl Inner {
    /// What holds calls back besides faults.
    fn hold(&self) -> Option<QuarantineReason> {
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
