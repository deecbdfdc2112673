//! Many calls of one plugin as one piece of work, so that what a queue costs is paid once for
//! all of them. Each call has its own lease, its own way through the layers and its own outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Inner, PluginHandle, lost};
use crate::call::{Reply, Request};
use crate::error::Error;
use crate::pool::{Never, Overrun, Patience, Ran, Teller, Ticket, Work, ticket};
use crate::slot::Visit;
use crate::sync::{after, lock};

/// One of many calls.
#[derive(Debug)]
pub(crate) enum Each {
    /// It is to be made.
    Asks(Request<'static>),
    /// It was answered.
    Answered(Request<'static>, Reply),
    /// It failed.
    Failed(Error),
}

impl PluginHandle {
    /// Makes those of `calls` that ask. Each may take at most `wait_max` from its begin, and
    /// what the plugin's manifest and its host allow.
    pub(crate) async fn execute_each(
        &self,
        calls: Vec<Each>,
        wait_max: Option<Duration>,
    ) -> Vec<Each> {
        let count = calls.len();
        let terms = self.inner.slot.terms();
        let allowed = terms.and_then(|terms| terms.deadline_max.or(terms.deadline_default));
        let wait_max = wait_max.into_iter().chain(allowed).min();
        let (teller, ticket) = ticket();
        let many = Many::new(&self.inner, calls, wait_max, teller);
        let place = Some(after(Instant::now(), PLACE_WAIT_MAX));
        let patience = Patience { place, ..Patience::default() };
        let work: Arc<dyn Work> = Arc::<Many>::clone(&many);
        if let Err(error) = self.inner.slot.enqueue(work, patience) {
            return many.fail_all(&|| error.again());
        }
        let mut waits = Waits { ticket, many };
        let answer = (&mut waits.ticket).await;
        answer.unwrap_or_else(|| (0..count).map(|_| Each::Failed(lost(&self.inner.slot))).collect())
    }
}

/// Whoever makes many calls bounds how many are under way, so a full queue is waited for.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Many calls in the queue or on a worker.
struct Many {
    inner: Arc<Inner>,
    wait_max: Option<Duration>,
    /// Whether any call has a deadline, so that somebody may have to speak for it.
    is_timed: bool,
    cancelled: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    calls: Vec<Each>,
    /// The call that is next, or runs.
    at: usize,
    /// When the one that runs is late.
    due: Option<Instant>,
    generation: u64,
    /// None once somebody else goes on with these calls.
    teller: Option<Teller<Vec<Each>>>,
}

impl Many {
    fn new(
        inner: &Arc<Inner>,
        calls: Vec<Each>,
        wait_max: Option<Duration>,
        teller: Teller<Vec<Each>>,
    ) -> Arc<Self> {
        let has_deadline =
            |call: &Each| matches!(call, Each::Asks(request) if request.deadline().is_some());
        Arc::new(Self {
            inner: Arc::clone(inner),
            wait_max,
            is_timed: wait_max.is_some() || calls.iter().any(has_deadline),
            cancelled: AtomicBool::new(false),
            progress: Mutex::new(Progress {
                calls,
                at: 0,
                due: None,
                generation: 0,
                teller: Some(teller),
            }),
        })
    }

    /// Makes one call; gives it back if `generation` is not current any more.
    fn make(&self, generation: u64, call: Each) -> Result<Each, Each> {
        let Each::Asks(request) = call else { return Ok(call) };
        let answer = self.inner.slot.under_lease(generation, |token| {
            self.inner.visit(Visit::pooled(&request, token, Some(&self.cancelled)))
        });
        match answer {
            None => Err(Each::Asks(request)),
            Some(Ok(reply)) => Ok(Each::Answered(request, reply)),
            Some(Err(error)) => Ok(Each::Failed(error)),
        }
    }

    /// Makes all that are left, for nobody who could be late.
    fn run_untimed(&self, generation: u64) -> Ran {
        let mut progress = lock(&self.progress);
        let (mut calls, from) = (std::mem::take(&mut progress.calls), progress.at);
        drop(progress);
        for at in from..calls.len() {
            if self.cancelled.load(Ordering::Relaxed) {
                return Ran::Done;
            }
            let call = std::mem::replace(&mut calls[at], Each::gone());
            match self.make(generation, call) {
                Ok(made) => calls[at] = made,
                Err(asks) => {
                    calls[at] = asks;
                    let mut progress = lock(&self.progress);
                    (progress.calls, progress.at) = (calls, at);
                    return Ran::NotHere;
                }
            }
        }
        self.tell(calls);
        Ran::Done
    }

    fn tell(&self, calls: Vec<Each>) {
        let teller = lock(&self.progress).teller.take();
        if let Some(teller) = teller {
            teller.tell(calls);
        }
    }

    /// Makes all that are left, one by one in sight of the clock.
    fn run_timed(&self, generation: u64) -> Ran {
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Ran::Done;
            }
            let Some(call) = self.begin(generation) else { return Ran::Done };
            let made = self.make(generation, call);
            let mut progress = lock(&self.progress);
            // Somebody spoke for it meanwhile: what came of it is dropped, outside the lock.
            if progress.teller.is_none() {
                drop(progress);
                return Ran::Done;
            }
            let at = progress.at;
            progress.due = None;
            match made {
                Ok(made) => {
                    progress.calls[at] = made;
                    progress.at += 1;
                }
                Err(asks) => {
                    progress.calls[at] = asks;
                    return Ran::NotHere;
                }
            }
        }
    }

    /// Takes the next call to be made; none if there is none, which is told, or if somebody
    /// else goes on.
    fn begin(&self, generation: u64) -> Option<Each> {
        let mut progress = lock(&self.progress);
        progress.teller.as_ref()?;
        let at = progress.at;
        if at == progress.calls.len() {
            let calls = std::mem::take(&mut progress.calls);
            let teller = progress.teller.take();
            drop(progress);
            if let Some(teller) = teller {
                teller.tell(calls);
            }
            return None;
        }
        let mut call = std::mem::replace(&mut progress.calls[at], Each::gone());
        if let Each::Asks(request) = &mut call {
            if let Some(wait_max) = self.wait_max {
                let latest = after(Instant::now(), wait_max);
                request.set_deadline(request.deadline().map_or(latest, |own| own.min(latest)));
            }
            progress.due = request.deadline();
        }
        progress.generation = generation;
        Some(call)
    }

    /// Fails all that were not made.
    fn fail_all(&self, error: &dyn Fn() -> Error) -> Vec<Each> {
        let mut progress = lock(&self.progress);
        let (calls, at) = (std::mem::take(&mut progress.calls), progress.at);
        drop(progress);
        let failed = |(index, call)| match call {
            Each::Asks(_) if index >= at => Each::Failed(error()),
            call => call,
        };
        calls.into_iter().enumerate().map(failed).collect()
    }
}

impl Each {
    /// In the place of a call that somebody holds.
    fn gone() -> Self {
        Self::Asks(Request::bytes(&[]))
    }
}

impl Work for Many {
    fn run(self: Arc<Self>, generation: u64) -> Ran {
        if self.is_timed { self.run_timed(generation) } else { self.run_untimed(generation) }
    }

    fn never(self: Arc<Self>, why: Never) {
        let failed = self.fail_all(&|| self.inner.slot.never(why));
        self.tell(failed);
    }

    fn broke(self: Arc<Self>) {
        let failed = self.fail_all(&|| lost(&self.inner.slot));
        self.tell(failed);
    }

    fn is_wanted(&self) -> bool {
        !self.cancelled.load(Ordering::Relaxed)
    }

    fn due(&self) -> Option<Instant> {
        if !self.is_timed {
            return None;
        }
        let progress = lock(&self.progress);
        let rest = progress.calls.iter().skip(progress.at).filter_map(|call| match call {
            Each::Asks(request) => request.deadline(),
            Each::Answered(..) | Each::Failed(_) => None,
        });
        // It is asked first when a worker is about to begin.
        let running = progress.due.or_else(|| Some(after(Instant::now(), self.wait_max?)));
        rest.chain(running).min()
    }

    fn overrun(self: Arc<Self>, now: Instant) -> Overrun {
        let mut progress = lock(&self.progress);
        if progress.due.is_none_or(|due| due > now) {
            return Overrun::InTime;
        }
        let Some(teller) = progress.teller.take() else { return Overrun::InTime };
        let (mut calls, at) = (std::mem::take(&mut progress.calls), progress.at);
        let generation = progress.generation;
        drop(progress);
        self.cancelled.store(true, Ordering::Relaxed);
        calls[at] = Each::Failed(self.inner.slot.abandoned(generation));
        if at + 1 == calls.len() {
            teller.tell(calls);
            return Overrun::Late { rest: None };
        }
        let rest = Self::new(&self.inner, calls, self.wait_max, teller);
        lock(&rest.progress).at = at + 1;
        Overrun::Late { rest: Some(rest) }
    }
}

/// Takes the calls back that are still to be made when nobody waits any more.
struct Waits {
    ticket: Ticket<Vec<Each>>,
    many: Arc<Many>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let teller = lock(&self.many.progress).teller.take();
        if teller.is_some() {
            self.many.cancelled.store(true, Ordering::Relaxed);
            let work: Arc<dyn Work> = Arc::<Many>::clone(&self.many);
            self.many.inner.slot.take_back(&work);
        }
    }
}
