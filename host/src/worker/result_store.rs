//! The results of a pool. An entry is pending, then completed, and then taken: by its ticket while
//! that exists, otherwise by `take` or `drain`.
//!
//! No foreign code but `T::clone` runs under the lock: wakers and values leave it first.
//! Checked with loom by `tests/loom`, which brings its own locks.

use std::collections::BTreeMap;
use std::fmt;
use std::task::{Poll, Waker};

use super::locks::{Mutex, MutexGuard};
use super::{Outcome, QueuePermit, TaskId};
use crate::panic::drop_panic;
use crate::sync::lock;

/// The pending results of accepted tasks, and the completed ones that were not taken.
pub(super) struct ResultStore<T> {
    entries: Mutex<Entries<T>>,
}

type Entries<T> = BTreeMap<TaskId, Entry<T>>;

struct Entry<T> {
    /// `None` while the task is queued or running.
    outcome: Option<Outcome<T>>,
    claim: Claim,
    permit: QueuePermit,
}

/// The owner of an outcome, who may take it.
enum Claim {
    /// Its ticket, which is woken if it was polled.
    Ticket(Option<Waker>),
    /// Anyone with the pool: the ticket was dropped.
    Detached,
}

impl<T> ResultStore<T> {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// Creates a pending entry for a ticket.
    pub(super) fn reserve(&self, id: TaskId, permit: QueuePermit) {
        let entry = Entry { outcome: None, claim: Claim::Ticket(None), permit };
        let replaced = self.lock().insert(id, entry);
        debug_assert!(replaced.is_none(), "the id of {id} is not unique");
    }

    /// Removes the pending entry of a task that was not accepted.
    pub(super) fn remove(&self, id: TaskId) {
        let removed = self.lock().remove(&id);
        drop(removed.map(Entry::into_outcome));
    }

    /// Completes a pending entry and wakes its ticket.
    pub(super) fn complete(&self, id: TaskId, outcome: Outcome<T>) {
        let mut entries = self.lock();
        let pending = entries.get_mut(&id).filter(|entry| entry.outcome.is_none());
        let Some(entry) = pending else {
            debug_assert!(false, "{id} was completed twice, or not reserved");
            return;
        };
        entry.outcome = Some(outcome);
        let waker = match &mut entry.claim {
            Claim::Ticket(waker) => waker.take(),
            Claim::Detached => None,
        };
        drop(entries);
        if let Some(waker) = waker {
            drop_panic(|| waker.wake());
        }
    }

    /// Takes the outcome for its ticket. While it is pending, stores `waker`.
    pub(super) fn poll(&self, id: TaskId, waker: Waker) -> Poll<Outcome<T>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id).expect("an entry stays until its ticket takes it");
        if entry.outcome.is_none() {
            let before = std::mem::replace(&mut entry.claim, Claim::Ticket(Some(waker)));
            drop(entries);
            drop(before);
            return Poll::Pending;
        }
        let done = entries.remove(&id);
        drop(entries);
        done.and_then(Entry::into_outcome).map_or(Poll::Pending, Poll::Ready)
    }

    /// Drops the claim of a ticket.
    pub(super) fn detach(&self, id: TaskId) {
        let claim = {
            let mut entries = self.lock();
            let entry = entries.get_mut(&id);
            entry.map(|entry| std::mem::replace(&mut entry.claim, Claim::Detached))
        };
        drop(claim);
    }

    /// Takes the detached outcome with this id.
    pub(super) fn take(&self, id: TaskId) -> Option<Outcome<T>> {
        let taken = {
            let mut entries = self.lock();
            if entries.get(&id)?.is_detached() { entries.remove(&id) } else { None }
        };
        taken.and_then(Entry::into_outcome)
    }

    /// Takes all detached outcomes.
    pub(super) fn drain(&self) -> BTreeMap<TaskId, Outcome<T>> {
        let detached = {
            let mut entries = self.lock();
            let all = std::mem::take(&mut *entries);
            let (detached, kept): (Entries<T>, Entries<T>) =
                all.into_iter().partition(|(_, entry)| entry.is_detached());
            *entries = kept;
            detached
        };
        let outcomes = detached.into_iter().map(|(id, entry)| (id, entry.into_outcome()));
        outcomes.filter_map(|(id, outcome)| Some((id, outcome?))).collect()
    }

    /// Copies all detached outcomes.
    pub(super) fn copy(&self) -> BTreeMap<TaskId, Outcome<T>>
    where
        T: Clone,
    {
        // Outlives the lock even if a clone panics, so that no copy is dropped under it.
        let mut copies = BTreeMap::new();
        let entries = self.lock();
        for (id, entry) in entries.iter().filter(|(_, entry)| entry.is_detached()) {
            copies.extend(entry.outcome.clone().map(|outcome| (*id, outcome)));
        }
        drop(entries);
        copies
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        lock(&self.entries)
    }
}

impl<T> Entry<T> {
    fn is_detached(&self) -> bool {
        self.outcome.is_some() && matches!(self.claim, Claim::Detached)
    }

    fn into_outcome(self) -> Option<Outcome<T>> {
        let Self { outcome, claim, permit } = self;
        // May wake a task that waits for the permit.
        drop_panic(|| drop((claim, permit)));
        outcome
    }
}

impl<T> fmt::Debug for ResultStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultStore").field("entries", &self.lock().len()).finish_non_exhaustive()
    }
}
