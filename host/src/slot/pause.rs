//! Changes of the current generation (promote, vacate, pause, resume), and calls that find none.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Slot;
use super::flags::SlotFlag;
use crate::call::Request;
use crate::error::{Error, ErrorKind};
use crate::generation::{Generation, InstanceRef, is_in_plugin_call};
use crate::sync::{deadline_in, lock};

/// The reason no generation is current.
pub(super) enum Vacant {
    /// None was loaded yet.
    Empty,
    /// The plugin was unloaded.
    Unloaded,
    /// The generation finishes its running calls, and is then resumed or replaced. It is taken
    /// from here when it is unloaded.
    Paused(Weak<InstanceRef>, Option<Arc<Generation>>),
}

/// A paused slot, and the generation that served before.
#[must_use]
#[derive(Debug)]
pub(crate) struct Paused {
    pub(crate) generation: Arc<Generation>,
    instance: Weak<InstanceRef>,
}

impl Slot {
    /// Makes a generation current and returns the previous one, which drains. Returns the new
    /// instance as an error if the plugin was unloaded meanwhile.
    pub(crate) fn promote(
        self: &Arc<Self>,
        instance: InstanceRef,
    ) -> Result<Option<Arc<Generation>>, Arc<InstanceRef>> {
        let generation = Arc::clone(instance.generation());
        let instance = Arc::new(instance);
        let before = {
            let mut vacant = lock(&self.vacant);
            if matches!(*vacant, Vacant::Unloaded) {
                return Err(instance);
            }
            *vacant = Vacant::Empty;
            self.current.swap(Some(instance))
        };
        self.changed.notify_all();
        self.health.reset(generation.id);
        let policy = &generation.policy;
        let flags = &self.health.flags;
        flags.set(SlotFlag::InFlight, policy.max_in_flight.is_some());
        // Set before the policy is published, so that a call that sees the policy sees the flag.
        flags.set(SlotFlag::Schema, policy.checks_input());
        self.policy.store(Some(Arc::clone(policy)));
        self.start_epoch(&generation);
        Ok(before.map(|before| mark_not_current(&before)))
    }

    /// Rejects all further calls and returns the generation that drains.
    pub(crate) fn vacate(&self) -> Option<Arc<Generation>> {
        let (current, vacant) = {
            let mut vacant = lock(&self.vacant);
            let vacant = std::mem::replace(&mut *vacant, Vacant::Unloaded);
            // Before the swap, so that calls of pinned handles fail no later than new calls.
            if let Some(current) = &*self.current.load() {
                mark_not_current(current);
            }
            (self.current.swap(None), vacant)
        };
        self.changed.notify_all();
        self.queue.close();
        match (current, vacant) {
            (Some(current), _) => Some(Arc::clone(current.generation())),
            (None, Vacant::Paused(_, paused)) => paused,
            (None, _) => None,
        }
    }

    /// Makes new calls wait while the running ones finish; `None` if no generation is current.
    pub(crate) fn pause(&self) -> Option<Paused> {
        let current = {
            let mut vacant = lock(&self.vacant);
            let current = self.current.swap(None)?;
            let generation = Arc::clone(current.generation());
            *vacant = Vacant::Paused(Arc::downgrade(&current), Some(generation));
            current
        };
        self.queue.suspend();
        let generation = mark_not_current(&current);
        Some(Paused { generation, instance: Arc::downgrade(&current) })
    }

    /// Returns whether calls wait for the end of a reload.
    pub(crate) fn is_paused(&self) -> bool {
        matches!(&*lock(&self.vacant), Vacant::Paused(..))
    }

    /// Takes a paused generation out of the slot; the caller unloads it.
    pub(crate) fn take_paused(&self, paused: &Paused) -> Result<Arc<Generation>, Error> {
        let mut vacant = lock(&self.vacant);
        match &mut *vacant {
            Vacant::Paused(_, generation) => {
                *generation = None;
                // Its workers exit; queued calls wait for those of the next generation.
                let _ = self.queue.start_epoch(0, paused.generation.policy.queue);
                Ok(Arc::clone(&paused.generation))
            }
            // It was unloaded meanwhile.
            _ => Err(self.unloaded_error()),
        }
    }

    /// Waits for the leases of a paused generation. Returns an instance that stands for all of
    /// them, or the number of leases that remain after `timeout`.
    pub(crate) fn drain(
        &self,
        paused: &Paused,
        timeout: Duration,
    ) -> Result<Arc<InstanceRef>, usize> {
        match paused.generation.take_backend(timeout) {
            Some(backend) => {
                let generation = Arc::clone(&paused.generation);
                Ok(Arc::new(InstanceRef::resumed(generation, backend)))
            }
            None => Err(paused.instance.strong_count()),
        }
    }

    /// Makes a paused generation current again. `instance` is what [`drain`](Self::drain) returned,
    /// if the generation was drained.
    pub(crate) fn resume(self: &Arc<Self>, paused: Paused, instance: Option<Arc<InstanceRef>>) {
        let instance = instance.or_else(|| paused.instance.upgrade()).or_else(|| {
            // The last lease was just released.
            let backend = paused.generation.take_backend(Duration::from_secs(1))?;
            Some(Arc::new(InstanceRef::resumed(Arc::clone(&paused.generation), backend)))
        });
        {
            let mut vacant = lock(&self.vacant);
            if matches!(*vacant, Vacant::Unloaded) {
                // The unload also ends the paused generation.
                return;
            }
            paused.generation.set_current(instance.is_some());
            *vacant = Vacant::Empty;
            self.current.store(instance);
        }
        self.changed.notify_all();
        self.resume_workers();
    }

    /// Waits for a current generation while the plugin is paused. A call made from inside a lease
    /// runs on the paused generation instead, since the pause may wait for that lease.
    #[cold]
    pub(super) fn wait_for_current(
        &self,
        request: Option<&Request<'_>>,
    ) -> Result<Arc<InstanceRef>, Error> {
        let deadline = deadline_in(self.pause_timeout);
        let mut vacant = lock(&self.vacant);
        loop {
            if let Some(request) = request {
                self.check_active(request)?;
            }
            if let Some(instance) = self.current.load_full() {
                return Ok(instance);
            }
            let Vacant::Paused(before, _) = &*vacant else { return Err(self.unloaded_error()) };
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
            let waited = self.changed.wait_timeout(vacant, left);
            vacant = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the error of a call that finds no current generation and does not wait.
    pub(super) fn vacant_error(&self) -> Error {
        if matches!(&*lock(&self.vacant), Vacant::Paused(..)) {
            return Error::new(ErrorKind::Overloaded, "is being reloaded")
                .with_hint("retry later")
                .of(&self.name);
        }
        self.unloaded_error()
    }

    fn pause_timeout_error(&self) -> Error {
        let waited = self.pause_timeout.as_millis();
        let message =
            format!("was not called: it is being reloaded, and the call waited {waited} ms");
        Error::new(ErrorKind::Overloaded, message).with_hint("retry later").of(&self.name)
    }
}

/// Returns how soon a waiting call is checked again. A cancelled token does not wake it.
fn poll_interval(request: &Request<'_>) -> Duration {
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
    let deadline = request.deadline().map_or(Duration::MAX, left);
    let token = request.cancellation_token().map_or(Duration::MAX, |_| TOKEN_POLL_INTERVAL);
    deadline.min(token).max(Duration::from_micros(50))
}

const TOKEN_POLL_INTERVAL: Duration = Duration::from_millis(5);

fn mark_not_current(instance: &InstanceRef) -> Arc<Generation> {
    instance.generation().set_current(false);
    Arc::clone(instance.generation())
}
