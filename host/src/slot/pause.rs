//! The moments when the current generation changes: promoted, vacated, paused and resumed; and
//! what a call does that finds nobody.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Slot;
use super::attention::Reason;
use crate::call::Request;
use crate::error::{Error, ErrorKind};
use crate::generation::{Generation, Token, is_inside};
use crate::sync::{deadline_in, lock};

/// What it means that nobody is current.
pub(super) enum Vacancy {
    /// Nobody yet.
    Empty,
    /// Nobody any more.
    Gone,
    /// Somebody will be soon; until then the one before finishes what runs. It is taken out
    /// when somebody ends it.
    Paused(Weak<Token>, Option<Arc<Generation>>),
}

/// A slot whose calls wait, and the generation that served before.
#[must_use]
#[derive(Debug)]
pub(crate) struct Paused {
    pub(crate) generation: Arc<Generation>,
    token: Weak<Token>,
}

impl Slot {
    /// Makes a generation current; answers with the one before, which drains. Gives the token
    /// back if the plugin was taken out of service meanwhile.
    pub(crate) fn promote(
        self: &Arc<Self>,
        token: Token,
    ) -> Result<Option<Arc<Generation>>, Arc<Token>> {
        let generation = Arc::clone(token.generation());
        let token = Arc::new(token);
        let before = {
            let mut vacancy = lock(&self.vacancy);
            if matches!(*vacancy, Vacancy::Gone) {
                return Err(token);
            }
            *vacancy = Vacancy::Empty;
            self.current.swap(Some(token))
        };
        self.changed.notify_all();
        self.health.forget(generation.id);
        let terms = &generation.terms;
        let attention = &self.health.attention;
        attention.set(Reason::InFlight, terms.in_flight_max.is_some());
        // Before the terms: whoever sees them sees this.
        attention.set(Reason::Schema, terms.checks_input());
        self.terms.store(Some(Arc::clone(terms)));
        self.begin(&generation);
        Ok(before.map(|before| not_current(&before)))
    }

    /// Takes no more calls, for good; answers with the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let (current, vacancy) = {
            let mut vacancy = lock(&self.vacancy);
            let vacancy = std::mem::replace(&mut *vacancy, Vacancy::Gone);
            (self.current.swap(None), vacancy)
        };
        self.changed.notify_all();
        self.queue.close();
        match (current, vacancy) {
            (Some(current), _) => Some(not_current(&current)),
            (None, Vacancy::Paused(_, paused)) => paused,
            (None, _) => None,
        }
    }

    /// Lets calls wait while the current generation finishes what runs; none if there is none.
    pub(crate) fn pause(&self) -> Option<Paused> {
        let current = {
            let mut vacancy = lock(&self.vacancy);
            let current = self.current.swap(None)?;
            let generation = Arc::clone(current.generation());
            *vacancy = Vacancy::Paused(Arc::downgrade(&current), Some(generation));
            current
        };
        self.queue.suspend();
        let generation = not_current(&current);
        Some(Paused { generation, token: Arc::downgrade(&current) })
    }

    /// Takes a paused generation out, to be ended by who asks.
    pub(crate) fn take_out(&self, paused: &Paused) -> Result<Arc<Generation>, Error> {
        let mut vacancy = lock(&self.vacancy);
        match &mut *vacancy {
            Vacancy::Paused(_, generation) => {
                *generation = None;
                // Its workers go home; what is queued waits for those of the next.
                let _ = self.queue.start_epoch(0, paused.generation.terms.queue);
                Ok(Arc::clone(&paused.generation))
            }
            // Somebody else ends it.
            _ => Err(self.gone()),
        }
    }

    /// Waits for the leases of a paused generation; answers with a token that stands for all
    /// of them, or with the number of those that are left after `wait_max`.
    pub(crate) fn drain(&self, paused: &Paused, wait_max: Duration) -> Result<Arc<Token>, usize> {
        match paused.generation.take_body(wait_max) {
            Some(instance) => {
                let generation = Arc::clone(&paused.generation);
                Ok(Arc::new(Token::again(generation, instance)))
            }
            None => Err(paused.token.strong_count()),
        }
    }

    /// Lets a paused generation serve on. `token` is the one that stands for all leases, if
    /// the generation had been drained.
    pub(crate) fn resume(self: &Arc<Self>, paused: Paused, token: Option<Arc<Token>>) {
        let token = token.or_else(|| paused.token.upgrade()).or_else(|| {
            // The last lease came back just now.
            let instance = paused.generation.take_body(Duration::from_secs(1))?;
            Some(Arc::new(Token::again(Arc::clone(&paused.generation), instance)))
        });
        {
            let mut vacancy = lock(&self.vacancy);
            if matches!(*vacancy, Vacancy::Gone) {
                // Who took the plugin out of service ends it.
                return;
            }
            paused.generation.set_current(token.is_some());
            *vacancy = Vacancy::Empty;
            self.current.store(token);
        }
        self.changed.notify_all();
        self.go_on();
    }

    /// What a call does that finds nobody: waits if the plugin is paused, unless the call was
    /// made from inside a lease, which the pause itself may wait for.
    #[cold]
    pub(super) fn wait_for_current(
        &self,
        request: Option<&Request<'_>>,
    ) -> Result<Arc<Token>, Error> {
        let deadline = deadline_in(self.pause_wait_max);
        let mut vacancy = lock(&self.vacancy);
        loop {
            if let Some(request) = request {
                self.is_still_wanted(request)?;
            }
            if let Some(token) = self.current.load_full() {
                return Ok(token);
            }
            let Vacancy::Paused(before, _) = &*vacancy else { return Err(self.gone()) };
            if is_inside()
                && let Some(token) = before.upgrade()
            {
                return Ok(token);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.paused_too_long());
            }
            let left = left.min(request.map_or(Duration::MAX, look_again_in));
            let waited = self.changed.wait_timeout(vacancy, left);
            vacancy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why nobody is current.
    pub(super) fn nobody_now(&self) -> Error {
        if matches!(&*lock(&self.vacancy), Vacancy::Paused(..)) {
            let message = "is being reloaded; ask again";
            return Error::new(ErrorKind::Overloaded, message).of(&self.name);
        }
        self.gone()
    }

    fn paused_too_long(&self) -> Error {
        let waited = self.pause_wait_max.as_millis();
        let message = format!("is being reloaded, and the call waited {waited} ms; call again");
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }
}

/// How soon a call that waits is to be looked at again: a token tells nobody here that it was
/// cancelled.
fn look_again_in(request: &Request<'_>) -> Duration {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    let deadline = request.deadline().map_or(Duration::MAX, left);
    let token = request.cancellation_token().map_or(Duration::MAX, |_| TOKEN_LOOK_EVERY);
    deadline.min(token).max(Duration::from_micros(50))
}

const TOKEN_LOOK_EVERY: Duration = Duration::from_millis(5);

fn not_current(token: &Token) -> Arc<Generation> {
    token.generation().set_current(false);
    Arc::clone(token.generation())
}
