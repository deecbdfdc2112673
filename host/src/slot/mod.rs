//! The hall: the place where a plugin's current generation stands, and the queue of the calls
//! that wait for it. The one place where calls and reloads meet.

mod attention;
mod cache_meter;
mod gather;
mod health;
mod in_flight;
mod pause;
mod queueing;
mod stride;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::call::{Reply, Request, Standing};
use crate::config::Quarantine;
use crate::error::{Error, ErrorKind};
use crate::event::Board;
use crate::generation::{Asked, Generation, Terms, Token, next_call_id};
use crate::id::{GenerationId, PluginName};
use crate::metrics::Latencies;
use crate::pool::{Queue, TimerHandle};
use crate::sync::Tally;
use attention::Reason;
use cache_meter::CacheMeter;
pub(crate) use gather::{Gather, Gathered, Place};
use health::{Coming, is_unanswered};
pub(crate) use health::{Health, Pass};
use pause::Vacancy;
pub(crate) use stride::Stride;

/// The place of one plugin.
pub(crate) struct Slot {
    current: ArcSwapOption<Token>,
    pub(crate) name: PluginName,
    pub(crate) meter: Meter,
    pub(crate) health: Health,
    queue: Queue,
    clock: TimerHandle,
    /// Whether calls may run as tasks: no layer of the application is in their way.
    is_walkable: AtomicBool,
    /// What calls of the current generation go by; none before the first.
    terms: ArcSwapOption<Terms>,
    generations: AtomicU64,
    /// What it means that nobody is current.
    vacancy: Mutex<Vacancy>,
    changed: Condvar,
    /// How long a call waits while the plugin is paused.
    pause_wait_max: Duration,
}

/// One call in so many has its duration taken; a power of two.
pub(crate) const SAMPLED_ONE_IN: u32 = 64;

/// What a slot counts.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) calls: Tally,
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
pub(crate) struct Visit<'v> {
    pub(crate) request: &'v Request<'v>,
    pub(crate) lease: Option<&'v Token>,
    /// How it stands with whoever made it, where others may speak for them.
    pub(crate) standing: Option<&'v Standing>,
    /// What the call was judged by, if there was anything to judge.
    pub(crate) terms: Option<&'v Terms>,
    pub(crate) method: Method,
    /// Where it is sent together with others, if it is.
    pub(crate) place: Option<&'v Place<'v>>,
    /// Unique in this process.
    pub(crate) call_id: u64,
}

impl<'v> Visit<'v> {
    /// A call in the caller's thread.
    #[inline]
    pub(crate) fn here(request: &'v Request<'v>) -> Self {
        let call_id = next_call_id();
        let method = Method::Call;
        Self { request, lease: None, standing: None, terms: None, method, place: None, call_id }
    }

    /// A call on a worker that holds a lease.
    #[inline]
    pub(crate) fn pooled(
        request: &'v Request<'v>,
        token: &'v Token,
        standing: &'v Standing,
    ) -> Self {
        let (lease, standing) = (Some(token), Some(standing));
        Self { lease, standing, method: Method::Execute, ..Self::here(request) }
    }

    /// What a call is judged by that came with a lease.
    pub(crate) fn leased_terms(&self) -> Option<&'v Terms> {
        self.terms.or_else(|| self.lease.map(|token| &*token.generation().terms))
    }

    fn coming(&self) -> Coming {
        if self.lease.is_some() { Coming::Admitted } else { Coming::Freshly }
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
pub(crate) trait Step: Send + Sync {
    /// Walks on, to fill `reply`; runs in the caller's thread.
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error>;
}

impl Slot {
    /// An empty place.
    pub(crate) fn new(
        name: PluginName,
        pause_wait_max: Duration,
        policy: Option<Quarantine>,
        board: Board,
        clock: TimerHandle,
    ) -> Self {
        let health = Health::new(name.clone(), policy, board);
        let meter = Meter {
            calls: Tally::new(),
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
            meter,
            health,
            queue: Queue::new(),
            clock,
            is_walkable: AtomicBool::new(false),
            terms: ArcSwapOption::empty(),
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
        if self.is_ending() {
            return Err(self.gone());
        }
        match self.current.load_full() {
            Some(token) => Ok(token),
            None => self.wait_for_current(None),
        }
    }

    /// As [`pin`](Self::pin), without waiting while the plugin is paused.
    pub(crate) fn pin_now(&self) -> Result<Arc<Token>, Error> {
        self.current.load_full().ok_or_else(|| self.nobody_now())
    }

    /// Whether calls that say nothing special have nothing to look at.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.health.attention.is_needless()
    }

    /// As [`terms`](Self::terms), for a moment: nothing is counted.
    pub(crate) fn terms_now(&self) -> arc_swap::Guard<Option<Arc<Terms>>> {
        self.terms.load()
    }

    /// What pooled calls go by now.
    pub(crate) fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.load_full()
    }

    /// Whether calls of the current generation have to fit a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.health.attention.has(Reason::Schema)
    }

    /// Goes on with what the call is judged by: the terms that it was judged by before, those
    /// of its lease, or those of the current generation.
    pub(crate) fn with_terms(
        &self,
        visit: &Visit<'_>,
        go_on: impl FnOnce(&Visit<'_>, &Terms) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(terms) = visit.leased_terms() {
            return go_on(&Visit { terms: Some(terms), ..*visit }, terms);
        }
        match &*self.terms.load() {
            Some(terms) => go_on(&Visit { terms: Some(terms), ..*visit }, terms),
            None => Err(self.gone()),
        }
    }

    /// Judges a call that goes to another generation than the one whose terms it was judged
    /// by: there was a reload in between.
    #[inline]
    fn judge(&self, token: &Token, visit: &Visit<'_>) -> Result<(), Error> {
        if !token.checks_input() && visit.request.named_operation().is_none() {
            return Ok(());
        }
        self.judge_again(token, visit)
    }

    #[cold]
    fn judge_again(&self, token: &Token, visit: &Visit<'_>) -> Result<(), Error> {
        let terms = &*token.generation().terms;
        if visit.terms.is_some_and(|judged| std::ptr::eq(judged, terms)) {
            return Ok(());
        }
        terms.judge(&self.name, visit.request)
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

    /// Hears how a call ended that was let go on.
    #[cold]
    pub(crate) fn judge_outcome(&self, pass: Pass, visit: &Visit<'_>, outcome: &Result<(), Error>) {
        let mut was_late = visit.standing.is_some_and(Standing::was_late);
        if !was_late && outcome.as_ref().is_err_and(is_unanswered) {
            if visit.standing.is_none_or(Standing::counts_lateness) {
                self.meter.abandoned.fetch_add(1, Ordering::Relaxed);
            } else {
                was_late = true;
            }
        }
        self.health.outcome(pass, was_late, outcome);
    }

    /// Lets a call go on, or refuses it.
    #[inline]
    pub(crate) fn admit(&self, visit: &Visit<'_>) -> Result<Pass, Error> {
        if self.health.has_to_ask() { self.ask(visit.coming()) } else { Ok(Pass::Usual) }
    }

    #[cold]
    fn ask(&self, coming: Coming) -> Result<Pass, Error> {
        self.health.ask(coming, || self.queue.is_exhausted())
    }

    /// Refuses a call that is about to be queued for a plugin that is not called now. A probe
    /// is not begun by this.
    pub(crate) fn admit_to_queue(&self) -> Result<(), Error> {
        if !self.health.has_to_ask() {
            return Ok(());
        }
        self.health.peek(|| self.queue.is_exhausted())
    }

    /// Refuses a call that was taken back, or whose deadline has passed.
    pub(crate) fn is_still_wanted(&self, request: &Request<'_>) -> Result<(), Error> {
        if request.is_taken_back() {
            return Err(self.not_wanted());
        }
        match request.deadline() {
            Some(deadline) if deadline <= Instant::now() => {
                Err(self.late("was not called: the deadline had passed"))
            }
            _ => Ok(()),
        }
    }

    /// What a call is told that was taken back before it began.
    #[cold]
    pub(crate) fn not_wanted(&self) -> Error {
        let message = "was not called: its caller took the call back";
        Error::new(ErrorKind::Cancelled, message).of(&self.name)
    }

    /// Why nobody is current any more.
    #[cold]
    pub(crate) fn gone(&self) -> Error {
        if self.health.is_ending() {
            return self.health.ending();
        }
        Error::new(ErrorKind::Retired, "was unloaded; look it up again").of(&self.name)
    }

    /// Whether the host ends.
    pub(crate) fn is_ending(&self) -> bool {
        self.health.has_to_ask() && self.health.is_ending()
    }

    /// Lets only those calls go on that have begun: the host ends.
    pub(crate) fn end(&self) {
        self.health.end();
    }
}

impl Step for Arc<Slot> {
    /// The end of the corridor: leases the current generation, unless the call came with a
    /// lease, by which it was judged, and calls it.
    #[inline]
    fn call(&self, visit: &Visit<'_>, reply: &mut Reply) -> Result<(), Error> {
        let Visit { request, standing, call_id, .. } = *visit;
        let asked = Asked { request, standing, call_id };
        if let Some(token) = visit.lease {
            return token.call(asked, reply);
        }
        match &*self.current.load() {
            Some(token) => {
                self.judge(token, visit)?;
                token.call(asked, reply)
            }
            None => {
                let token = self.wait_for_current(Some(visit.request))?;
                self.judge(&token, visit)?;
                token.call(asked, reply)
            }
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}
