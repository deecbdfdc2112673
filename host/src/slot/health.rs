//! Whether the plugin of a slot may be called: what the breaker asks, in one word where nothing
//! is wrong.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::{Board, HostEvent};
use crate::generation::recovery::{Admission, Decision, History, Success};
use crate::id::{GenerationId, PluginName};
use crate::sync::lock;

/// Whether the plugin of a slot may be called.
pub(crate) struct Health {
    /// The one word that a call reads: whether it has to ask.
    ask: AtomicBool,
    history: Mutex<History>,
    policy: Option<Quarantine>,
    name: PluginName,
    board: Board,
}

impl Health {
    /// A plugin that nothing is held against.
    pub(super) fn new(name: PluginName, policy: Option<Quarantine>, board: Board) -> Self {
        let ask = AtomicBool::new(false);
        Self { ask, history: Mutex::default(), policy, name, board }
    }

    /// Forgets what was held against the build before; from here on `generation` is judged.
    pub(super) fn forget(&self, generation: GenerationId) {
        *lock(&self.history) = History::new(generation.get());
        self.ask.store(false, Ordering::Relaxed);
    }
}

/// A call that may go on.
#[must_use]
#[derive(Debug)]
pub(crate) enum Pass {
    /// An ordinary call.
    Usual,
    /// What comes of it decides about the quarantine of this generation.
    Probe(u64),
}

impl Health {
    /// Lets a call go on, or refuses it.
    #[inline]
    pub(crate) fn admit(&self) -> Result<Pass, Error> {
        if self.ask.load(Ordering::Relaxed) { self.ask() } else { Ok(Pass::Usual) }
    }

    #[cold]
    fn ask(&self) -> Result<Pass, Error> {
        let mut history = lock(&self.history);
        match history.admit(Instant::now()) {
            Admission::Go => Ok(Pass::Usual),
            Admission::Probe => Ok(Pass::Probe(history.generation())),
            Admission::Refuse { probe_in } => {
                let wait = probe_in.as_millis();
                let message =
                    format!("is quarantined after repeated faults; the next probe is in {wait} ms");
                Err(Error::new(ErrorKind::Quarantined, message).of(&self.name))
            }
        }
    }

    /// Hears how a call ended that was let go on.
    #[inline]
    pub(crate) fn outcome(&self, pass: Pass, outcome: &Result<(), Error>) {
        match (outcome, pass) {
            (Ok(()), Pass::Usual) => {}
            (Ok(()), Pass::Probe(generation)) => self.probe_succeeded(generation),
            (Err(error), Pass::Usual) => self.failed(error),
            (Err(error), Pass::Probe(generation)) => self.probe_failed(generation, error),
        }
    }

    #[cold]
    fn failed(&self, error: &Error) {
        if error.kind() == ErrorKind::Panicked
            && let Some(generation) = error.generation()
        {
            self.fault(generation.get(), false);
        }
    }

    #[cold]
    fn probe_failed(&self, generation: u64, error: &Error) {
        match error.kind() {
            ErrorKind::Panicked => self.fault(generation, true),
            // The plugin worked, and said no.
            ErrorKind::Plugin | ErrorKind::Output => self.probe_succeeded(generation),
            _ => lock(&self.history).probe_undone(generation),
        }
    }

    /// A fault of `generation`, wherever it happened.
    #[cold]
    pub(crate) fn fault(&self, generation: u64, probe: bool) {
        let decision = {
            let mut history = lock(&self.history);
            let now = Instant::now();
            let decision = history.fault(generation, now, probe, self.policy.as_ref());
            self.ask.store(history.is_quarantined(), Ordering::Relaxed);
            decision
        };
        if let Decision::Quarantine { faults, back_off } = decision {
            let probe_in_ms = u64::try_from(back_off.as_millis()).unwrap_or(u64::MAX);
            let plugin = self.name.clone();
            self.board.tell(HostEvent::Quarantined { plugin, faults, probe_in_ms });
        }
    }

    #[cold]
    fn probe_succeeded(&self, generation: u64) {
        let success = {
            let mut history = lock(&self.history);
            let success = history.probe_succeeded(generation);
            self.ask.store(history.is_quarantined(), Ordering::Relaxed);
            success
        };
        if success == Success::Restored {
            self.board.tell(HostEvent::Restored { plugin: self.name.clone() });
        }
    }

    /// Tells the board.
    pub(crate) fn tell(&self, event: HostEvent) {
        self.board.tell(event);
    }

    /// Whether calls are refused now.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.ask.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("quarantined", &self.is_quarantined())
            .finish_non_exhaustive()
    }
}
