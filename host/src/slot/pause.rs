//! The moments when the current generation changes: promoted, vacated, paused and resumed; and
//! what a call does that finds nobody.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Slot;
use crate::error::{Error, ErrorKind};
use crate::generation::{Generation, Token, is_inside};
use crate::sync::lock;

/// What it means that nobody is current.
pub(super) enum Vacancy {
    /// Nobody is there, or nobody yet.
    Gone,
    /// Somebody will be soon; until then the one before finishes what runs.
    Paused(Weak<Token>),
}

/// A slot whose calls wait, and the generation that served before.
#[must_use]
#[derive(Debug)]
pub(crate) struct Paused {
    pub(crate) generation: Arc<Generation>,
    token: Weak<Token>,
}

impl Slot {
    /// Makes a generation current; answers with the one before, which drains.
    pub(crate) fn promote(&self, token: Token) -> Option<Arc<Generation>> {
        let generation = Arc::clone(token.generation());
        let before = self.change(Vacancy::Gone, Some(Arc::new(token)));
        self.health.forget();
        self.begin(&generation);
        before
    }

    /// Takes no more calls; answers with the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let before = self.change(Vacancy::Gone, None);
        self.queue.close();
        before
    }

    /// Lets calls wait while the current generation finishes what runs; none if there is none.
    pub(crate) fn pause(&self) -> Option<Paused> {
        let token = Arc::downgrade(self.current.load().as_ref()?);
        // Workers go home; what is queued waits for the next epoch.
        let _ = self.queue.begin(0, self.generation()?.queue_max as usize);
        let generation = self.change(Vacancy::Paused(Weak::clone(&token)), None)?;
        Some(Paused { generation, token })
    }

    /// Waits for the leases of a paused generation; answers with a token that stands for all
    /// of them, or with the number of those that are left after `wait_max`.
    pub(crate) fn drain(&self, paused: &Paused, wait_max: Duration) -> Result<Arc<Token>, usize> {
        match paused.generation.take_instance(wait_max) {
            Some(instance) => {
                let generation = Arc::clone(&paused.generation);
                Ok(Arc::new(Token::again(generation, instance)))
            }
            None => Err(paused.token.strong_count()),
        }
    }

    /// Lets a paused generation serve on. `token` is the one that stands for all leases, if
    /// the generation had been drained.
    pub(crate) fn resume(&self, paused: Paused, token: Option<Arc<Token>>) {
        let token = token.or_else(|| paused.token.upgrade()).or_else(|| {
            // The last lease came back just now.
            let instance = paused.generation.take_instance(Duration::from_secs(1))?;
            Some(Arc::new(Token::again(Arc::clone(&paused.generation), instance)))
        });
        paused.generation.set_current(token.is_some());
        let _ = self.change(Vacancy::Gone, token);
        self.begin(&paused.generation);
    }

    /// Swaps who is current; those who wait look again.
    fn change(&self, vacancy: Vacancy, token: Option<Arc<Token>>) -> Option<Arc<Generation>> {
        let before = {
            let mut there = lock(&self.vacancy);
            *there = vacancy;
            self.current.swap(token)
        };
        self.changed.notify_all();
        let before = before.map(|token| Arc::clone(token.generation()))?;
        before.set_current(false);
        Some(before)
    }

    /// What a call does that finds nobody: waits if the plugin is paused, unless the call was
    /// made from inside a lease, which the pause itself may wait for.
    #[cold]
    pub(super) fn wait_for_current(&self) -> Result<Arc<Token>, Error> {
        let deadline = Instant::now() + self.pause_wait_max;
        let mut vacancy = lock(&self.vacancy);
        loop {
            if let Some(token) = self.current.load_full() {
                return Ok(token);
            }
            let Vacancy::Paused(before) = &*vacancy else { return Err(self.retired()) };
            if is_inside()
                && let Some(token) = before.upgrade()
            {
                return Ok(token);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.paused_too_long());
            }
            let waited = self.changed.wait_timeout(vacancy, left);
            vacancy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn paused_too_long(&self) -> Error {
        let waited = self.pause_wait_max.as_millis();
        let message = format!("is being reloaded, and the call waited {waited} ms; call again");
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }
}
