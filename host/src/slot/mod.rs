//! The hall: the place where a plugin's current generation stands, and the queue of the calls
//! that wait for it. The one place where calls and reloads meet.

mod health;
mod pause;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::call::{Reply, Request};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::Board;
use crate::generation::{Generation, Token};
use crate::id::{GenerationId, PluginName};
use crate::pool::{Epoch, Pushed, Queue, Work};
use crate::sync::Tally;
pub(crate) use health::Health;
use pause::Vacancy;

/// The place of one plugin.
pub(crate) struct Slot {
    current: ArcSwapOption<Token>,
    pub(crate) name: PluginName,
    pub(crate) meter: Meter,
    pub(crate) health: Health,
    queue: Arc<Queue>,
    generations: AtomicU64,
    /// What it means that nobody is current.
    vacancy: Mutex<Vacancy>,
    changed: Condvar,
    /// How long a call waits while the plugin is paused.
    pause_wait_max: Duration,
}

/// What a slot counts.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) calls: Tally,
    pub(crate) errors: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A request on its way down the corridor, and the lease it goes by, if it has one already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit<'v> {
    pub(crate) request: &'v Request<'v>,
    pub(crate) lease: Option<&'v Token>,
}

/// One step of the corridor that a call walks: a layer, or the slot at its end.
pub(crate) trait Call {
    /// Walks on, to fill `reply`; runs in the caller's thread.
    fn call(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error>;
}

impl Slot {
    /// An empty place.
    pub(crate) fn new(
        name: PluginName,
        pause_wait_max: Duration,
        policy: Option<Quarantine>,
        board: Board,
    ) -> Self {
        let health = Health::new(name.clone(), policy, board);
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
            queue: Arc::new(Queue::new(0)),
            generations: AtomicU64::new(0),
            vacancy: Mutex::new(Vacancy::Empty),
            changed: Condvar::new(),
            pause_wait_max,
        }
    }

    /// The number of the generation that is loaded next.
    pub(crate) fn next_generation(&self) -> GenerationId {
        GenerationId::after(self.generations.fetch_add(1, Ordering::Relaxed))
    }

    /// The current generation, beyond any lease.
    pub(crate) fn generation(&self) -> Option<Arc<Generation>> {
        self.current.load().as_ref().map(|token| Arc::clone(token.generation()))
    }

    /// A hold on the current generation that lasts.
    pub(crate) fn pin(&self) -> Result<Arc<Token>, Error> {
        match self.current.load_full() {
            Some(token) => Ok(token),
            None => self.wait_for_current(),
        }
    }

    /// As [`pin`](Self::pin), without waiting while the plugin is paused.
    pub(crate) fn pin_now(&self) -> Result<Arc<Token>, Error> {
        self.current.load_full().ok_or_else(|| self.nobody_now())
    }

    /// Does `work` under a lease of `generation`, unless that is not current any more.
    pub(crate) fn under_lease<T>(
        &self,
        generation: u64,
        work: impl FnOnce(&Token) -> T,
    ) -> Option<T> {
        let current = self.current.load();
        let token = current.as_deref()?;
        (token.generation().id.get() == generation).then(|| work(token))
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Queues a call for the workers of the current generation.
    pub(crate) fn enqueue(&self, work: Box<dyn Work>) -> Result<(), Error> {
        match self.queue.push(work) {
            Pushed::Waits => Ok(()),
            Pushed::Hire(epoch) => self.hire(epoch),
            Pushed::Full => Err(self.overloaded()),
            Pushed::Closed => Err(self.retired()),
        }
    }

    /// Puts a call back in its place, which a worker took whose generation is not current.
    pub(crate) fn hand_back(&self, work: Box<dyn Work>) {
        if let Pushed::Hire(epoch) = self.queue.hand_back(work)
            && let Err(error) = self.hire(epoch)
        {
            tracing::error!(error = error.full_message(), "a queued call waits for a thread");
        }
    }

    /// Starts a worker of the generation that serves in `epoch`.
    fn hire(&self, epoch: Epoch) -> Result<(), Error> {
        // Not current any more: the epoch is over or about to be, and the next one hires.
        let Some(generation) = self.generation() else { return Ok(()) };
        let Err(error) = generation.hire(&self.queue, epoch) else { return Ok(()) };
        let Some(undone) = self.queue.not_hired(epoch) else { return Ok(()) };
        drop(undone);
        let message = "has no worker: the system gave no thread";
        Err(Error::new(ErrorKind::Overloaded, message).caused_by(error).of(&self.name))
    }

    /// Lets the workers of `generation` serve the queue.
    fn begin(&self, generation: &Generation) {
        let workers_max = generation.crew.workers_max;
        let (epoch, hires) = self.queue.begin(workers_max, generation.queue_max as usize);
        for _ in 0..hires {
            if let Err(error) = generation.hire(&self.queue, epoch) {
                tracing::error!(%error, plugin = %self.name, "no thread for a worker");
                if let Some(undone) = self.queue.not_hired(epoch) {
                    undone.never();
                }
            }
        }
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
    /// The end of the corridor: leases the current generation, unless the call came with a
    /// lease, and calls it.
    #[inline]
    fn call(&self, visit: Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        if let Some(token) = visit.lease {
            return token.call(visit.request, reply);
        }
        match &*self.current.load() {
            Some(token) => token.call(visit.request, reply),
            None => self.wait_for_current()?.call(visit.request, reply),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}
