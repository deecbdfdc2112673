//! The moments when the current generation changes: promoted, vacated, paused and resumed; and
//! what a call does that finds nobody.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Slot;
use super::flags::SlotFlag;
use crate::call::Request;
use crate::error::{Error, ErrorKind};
use crate::generation::{Generation, InstanceRef, is_in_plugin_call};
use crate::sync::{deadline_in, lock};

/// What it means that nobody is current.
pub(super) enum Vacant {
    /// Nobody yet.
    Empty,
    /// Nobody any more.
    Unloaded,
    /// Somebody will be soon; until then the one before finishes what runs. It is taken out
    /// when somebody ends it.
    Paused(Weak<InstanceRef>, Option<Arc<Generation>>),
}

/// A slot whose calls wait, and the generation that served before.
#[must_use]
#[derive(Debug)]
pub(crate) struct Paused {
    pub(crate) generation: Arc<Generation>,
    instance: Weak<InstanceRef>,
}

impl Slot {
    /// Makes a generation current; answers with the one before, which drains. Gives the token
    /// back if the plugin was taken out of service meanwhile.
    pub(crate) fn promote(
        self: &Arc<Self>,
        instance: InstanceRef,
    ) -> Result<Option<Arc<Generation>>, Arc<InstanceRef>> {
        let generation = Arc::clone(instance.generation());
        let instance = Arc::new(instance);
        let before = {
            let mut vacancy = lock(&self.vacant);
            if matches!(*vacancy, Vacant::Unloaded) {
                return Err(instance);
            }
            *vacancy = Vacant::Empty;
            self.current.swap(Some(instance))
        };
        self.changed.notify_all();
        self.health.reset(generation.id);
        let policy = &generation.policy;
        let attention = &self.health.flags;
        attention.set(SlotFlag::InFlight, policy.max_in_flight.is_some());
        // Before the terms: whoever sees them sees this.
        attention.set(SlotFlag::Schema, policy.checks_input());
        self.policy.store(Some(Arc::clone(policy)));
        self.start_epoch(&generation);
        Ok(before.map(|before| mark_not_current(&before)))
    }

    /// Takes no more calls, for good; answers with the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let (current, vacancy) = {
            let mut vacancy = lock(&self.vacant);
            let vacancy = std::mem::replace(&mut *vacancy, Vacant::Unloaded);
            // Before the swap, so that calls of pins fail no later than new calls.
            if let Some(current) = &*self.current.load() {
                mark_not_current(current);
            }
            (self.current.swap(None), vacancy)
        };
        self.changed.notify_all();
        self.queue.close();
        match (current, vacancy) {
            (Some(current), _) => Some(Arc::clone(current.generation())),
            (None, Vacant::Paused(_, paused)) => paused,
            (None, _) => None,
        }
    }

    /// Lets calls wait while the current generation finishes what runs; none if there is none.
    pub(crate) fn pause(&self) -> Option<Paused> {
        let current = {
            let mut vacancy = lock(&self.vacant);
            let current = self.current.swap(None)?;
            let generation = Arc::clone(current.generation());
            *vacancy = Vacant::Paused(Arc::downgrade(&current), Some(generation));
            current
        };
        self.queue.suspend();
        let generation = mark_not_current(&current);
        Some(Paused { generation, instance: Arc::downgrade(&current) })
    }

    /// Takes a paused generation out, to be ended by who asks.
    pub(crate) fn take_paused(&self, paused: &Paused) -> Result<Arc<Generation>, Error> {
        let mut vacancy = lock(&self.vacant);
        match &mut *vacancy {
            Vacant::Paused(_, generation) => {
                *generation = None;
                // Its workers go home; what is queued waits for those of the next.
                let _ = self.queue.start_epoch(0, paused.generation.policy.queue);
                Ok(Arc::clone(&paused.generation))
            }
            // Somebody else ends it.
            _ => Err(self.unloaded_error()),
        }
    }

    /// Waits for the leases of a paused generation; answers with a token that stands for all
    /// of them, or with the number of those that are left after `wait_max`.
    pub(crate) fn drain(
        &self,
        paused: &Paused,
        timeout: Duration,
    ) -> Result<Arc<InstanceRef>, usize> {
        match paused.generation.take_backend(timeout) {
            Some(instance) => {
                let generation = Arc::clone(&paused.generation);
                Ok(Arc::new(InstanceRef::resumed(generation, instance)))
            }
            None => Err(paused.instance.strong_count()),
        }
    }

    /// Lets a paused generation serve on. `token` is the one that stands for all leases, if
    /// the generation had been drained.
    pub(crate) fn resume(self: &Arc<Self>, paused: Paused, instance: Option<Arc<InstanceRef>>) {
        let instance = instance.or_else(|| paused.instance.upgrade()).or_else(|| {
            // The last lease came back just now.
            let instance = paused.generation.take_backend(Duration::from_secs(1))?;
            Some(Arc::new(InstanceRef::resumed(Arc::clone(&paused.generation), instance)))
        });
        {
            let mut vacancy = lock(&self.vacant);
            if matches!(*vacancy, Vacant::Unloaded) {
                // Who took the plugin out of service ends it.
                return;
            }
            paused.generation.set_current(instance.is_some());
            *vacancy = Vacant::Empty;
            self.current.store(instance);
        }
        self.changed.notify_all();
        self.resume_workers();
    }

    /// What a call does that finds nobody: waits if the plugin is paused, unless the call was
    /// made from inside a lease, which the pause itself may wait for.
    #[cold]
    pub(super) fn wait_for_current(
        &self,
        request: Option<&Request<'_>>,
    ) -> Result<Arc<InstanceRef>, Error> {
        let deadline = deadline_in(self.pause_timeout);
        let mut vacancy = lock(&self.vacant);
        loop {
            if let Some(request) = request {
                self.check_active(request)?;
            }
            if let Some(instance) = self.current.load_full() {
                return Ok(instance);
            }
            let Vacant::Paused(before, _) = &*vacancy else { return Err(self.unloaded_error()) };
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
            let waited = self.changed.wait_timeout(vacancy, left);
            vacancy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why nobody is current.
    pub(super) fn vacant_error(&self) -> Error {
        if matches!(&*lock(&self.vacant), Vacant::Paused(..)) {
            let message = "is being reloaded; ask again";
            return Error::new(ErrorKind::Overloaded, message).of(&self.name);
        }
        self.unloaded_error()
    }

    fn pause_timeout_error(&self) -> Error {
        let waited = self.pause_timeout.as_millis();
        let message = format!("is being reloaded, and the call waited {waited} ms; call again");
        Error::new(ErrorKind::Overloaded, message).of(&self.name)
    }
}

/// How soon a call that waits is to be looked at again: a token tells nobody here that it was
/// cancelled.
fn poll_interval(request: &Request<'_>) -> Duration {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    let deadline = request.deadline().map_or(Duration::MAX, left);
    let instance = request.cancellation_token().map_or(Duration::MAX, |_| TOKEN_POLL_INTERVAL);
    deadline.min(instance).max(Duration::from_micros(50))
}

const TOKEN_POLL_INTERVAL: Duration = Duration::from_millis(5);

fn mark_not_current(instance: &InstanceRef) -> Arc<Generation> {
    instance.generation().set_current(false);
    Arc::clone(instance.generation())
}
