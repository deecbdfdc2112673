//! The hall: the place where a plugin's current generation stands, and the queue of the calls
//! that wait for it. The one place where calls and reloads meet.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use crate::call::{Call, Reply, Request};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::{Board, HostEvent};
use crate::generation::recovery::{Admission, Decision, History, Success};
use crate::generation::{Generation, Token};
use crate::id::{GenerationId, PluginName};
use crate::pool::{Pushed, Queue, Task};
use crate::sync::{Tally, lock};

/// The place of one plugin.
pub(crate) struct Slot {
    current: ArcSwapOption<Token>,
    pub(crate) name: PluginName,
    pub(crate) meter: Meter,
    pub(crate) health: Health,
    queue: Arc<Queue>,
    generations: AtomicU64,
}

/// What a slot counts.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) calls: Tally,
    pub(crate) errors: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Whether the plugin of a slot may be called.
pub(crate) struct Health {
    /// The one word that a call reads: whether it has to ask.
    ask: AtomicBool,
    history: Mutex<History>,
    policy: Option<Quarantine>,
    name: PluginName,
    board: Board,
}

impl Slot {
    /// An empty place.
    pub(crate) fn new(
        name: PluginName,
        queue_max: u32,
        policy: Option<Quarantine>,
        board: Board,
    ) -> Self {
        let health = Health {
            ask: AtomicBool::new(false),
            history: Mutex::default(),
            policy,
            name: name.clone(),
            board,
        };
        let meter = Meter {
            calls: Tally::new(),
            errors: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        Self {
            current: ArcSwapOption::empty(),
            name,
            meter,
            health,
            queue: Arc::new(Queue::new(queue_max as usize)),
            generations: AtomicU64::new(0),
        }
    }

    /// The number of the generation that is loaded next.
    pub(crate) fn next_generation(&self) -> GenerationId {
        GenerationId::new(self.generations.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Makes a generation current; answers with the one before, which drains.
    pub(crate) fn promote(&self, token: Token) -> Option<Arc<Generation>> {
        let before = self.current.swap(Some(Arc::new(token)));
        before.map(|token| Arc::clone(token.generation()))
    }

    /// Takes no more calls; answers with the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let before = self.current.swap(None);
        self.queue.close();
        before.map(|token| Arc::clone(token.generation()))
    }

    /// The current generation, beyond any lease.
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.current.load().as_ref().map(|token| Arc::clone(token.generation()))
    }

    /// A hold on the current generation that lasts.
    pub(crate) fn pin(&self) -> Result<Arc<Token>, Error> {
        self.current.load_full().ok_or_else(|| self.retired())
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Queues a call for the workers of the current generation.
    pub(crate) fn enqueue(&self, task: Task) -> Result<(), Error> {
        match self.queue.push(task) {
            Pushed::ToSleeper => Ok(()),
            Pushed::Waits => self.grow(),
            Pushed::Full => Err(self.overloaded()),
            Pushed::Closed => Err(self.retired()),
        }
    }

    fn grow(&self) -> Result<(), Error> {
        // Vacated meanwhile: the queue was closed and told the task.
        let Some(generation) = self.generation() else {
            return Ok(());
        };
        generation.grow(&self.queue).map_err(|error| {
            Error::new(ErrorKind::Overloaded, "has no worker: the system gave no thread")
                .caused_by(error)
                .of(&self.name)
        })
    }

    #[cold]
    pub(crate) fn retired(&self) -> Error {
        Error::new(ErrorKind::Retired, "was unloaded; look it up again").of(&self.name)
    }

    #[cold]
    fn overloaded(&self) -> Error {
        let waiting = self.queue.waiting();
        let message = format!("has {waiting} calls waiting, which is its `limits.queue`");
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }
}

impl Call for Arc<Slot> {
    /// The end of the corridor: leases the current generation and calls it.
    #[inline]
    fn call(&self, request: &Request<'_>) -> Result<Reply, Error> {
        match &*self.current.load() {
            Some(token) => token.call(request),
            None => Err(self.retired()),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A call that may go on, and whether it is a probe.
#[must_use]
#[derive(Debug)]
pub(crate) enum Pass {
    /// An ordinary call.
    Usual,
    /// What comes of it decides about the quarantine.
    Probe,
}

impl Health {
    /// Lets a call go on, or refuses it.
    #[inline]
    pub(crate) fn admit(&self) -> Result<Pass, Error> {
        if self.ask.load(Ordering::Relaxed) { self.ask() } else { Ok(Pass::Usual) }
    }

    #[cold]
    fn ask(&self) -> Result<Pass, Error> {
        match lock(&self.history).admit(Instant::now()) {
            Admission::Go => Ok(Pass::Usual),
            Admission::Probe => Ok(Pass::Probe),
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
    pub(crate) fn outcome(&self, pass: Pass, outcome: &Result<Reply, Error>) {
        match (outcome, pass) {
            (Ok(_), Pass::Usual) => {}
            (Ok(_), Pass::Probe) => self.succeeded(),
            (Err(error), pass) => self.failed(error, matches!(pass, Pass::Probe)),
        }
    }

    #[cold]
    fn failed(&self, error: &Error, probe: bool) {
        match error.kind() {
            ErrorKind::Panicked => self.fault(probe),
            // The plugin worked, and said no.
            ErrorKind::Plugin | ErrorKind::Output if probe => self.succeeded(),
            _ if probe => lock(&self.history).probe_undone(),
            _ => {}
        }
    }

    /// A fault of the plugin, wherever it happened.
    #[cold]
    pub(crate) fn fault(&self, probe: bool) {
        let decision = {
            let mut history = lock(&self.history);
            let decision = history.fault(Instant::now(), probe, self.policy.as_ref());
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
    fn succeeded(&self) {
        let success = {
            let mut history = lock(&self.history);
            let success = history.success(true);
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
