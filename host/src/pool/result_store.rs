//! The one place of a pool's results. An entry is pending, then done, and then leaves: to its
//! ticket while that lives, and else to whoever takes or drains.
//!
//! Nothing of others runs under the lock but `T::clone`: what is woken or dropped has left it.
//! Checked with loom by `tests/loom`, which brings its own locks.

use std::collections::BTreeMap;
use std::fmt;
use std::task::{Poll, Waker};

use super::locks::{Mutex, MutexGuard};
use super::{Outcome, QueuePermit, TaskId};
use crate::panic::drop_panic;
use crate::sync::lock;

/// The results of accepted tasks that nobody has taken yet, and those to come.
pub(super) struct ResultStore<T> {
    entries: Mutex<Entries<T>>,
}

type Entries<T> = BTreeMap<TaskId, Entry<T>>;

struct Entry<T> {
    /// None while the task waits or runs.
    outcome: Option<Outcome<T>>,
    claim: Claim,
    place: QueuePermit,
}

/// Whose an outcome is.
enum Claim {
    /// Its ticket lives, and is woken if it was polled.
    Ticket(Option<Waker>),
    /// Its ticket was dropped: it is for everybody.
    Left,
}

impl<T> ResultStore<T> {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// Makes a pending entry that a ticket has a claim on.
    pub(super) fn reserve(&self, id: TaskId, place: QueuePermit) {
        let entry = Entry { outcome: None, claim: Claim::Ticket(None), place };
        let replaced = self.lock().insert(id, entry);
        debug_assert!(replaced.is_none(), "the id of {id} is not unique");
    }

    /// Takes a pending entry back, whose task was not accepted.
    pub(super) fn remove(&self, id: TaskId) {
        let forgotten = self.lock().remove(&id);
        drop(forgotten.map(Entry::into_outcome));
    }

    /// Makes a pending entry a done one, and wakes its ticket.
    pub(super) fn complete(&self, id: TaskId, outcome: Outcome<T>) {
        let mut entries = self.lock();
        let pending = entries.get_mut(&id).filter(|entry| entry.outcome.is_none());
        let Some(entry) = pending else {
            debug_assert!(false, "{id} was settled twice, or never expected");
            return;
        };
        entry.outcome = Some(outcome);
        let waker = match &mut entry.claim {
            Claim::Ticket(waker) => waker.take(),
            Claim::Left => None,
        };
        drop(entries);
        if let Some(waker) = waker {
            drop_panic(|| waker.wake());
        }
    }

    /// Takes the outcome for its ticket. While it is pending, `waker` is kept to be woken.
    pub(super) fn poll(&self, id: TaskId, waker: Waker) -> Poll<Outcome<T>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id).expect("only its ticket takes an entry it has a claim on");
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

    /// Gives up the claim of a ticket: the outcome is, or will be, for everybody.
    pub(super) fn detach(&self, id: TaskId) {
        let claim = {
            let mut entries = self.lock();
            let entry = entries.get_mut(&id);
            entry.map(|entry| std::mem::replace(&mut entry.claim, Claim::Left))
        };
        drop(claim);
    }

    /// Takes what was left under this id.
    pub(super) fn take(&self, id: TaskId) -> Option<Outcome<T>> {
        let taken = {
            let mut entries = self.lock();
            if entries.get(&id)?.is_detached() { entries.remove(&id) } else { None }
        };
        taken.and_then(Entry::into_outcome)
    }

    /// Takes all that was left.
    pub(super) fn drain(&self) -> BTreeMap<TaskId, Outcome<T>> {
        let left = {
            let mut entries = self.lock();
            let all = std::mem::take(&mut *entries);
            let (left, kept): (Entries<T>, Entries<T>) =
                all.into_iter().partition(|(_, entry)| entry.is_detached());
            *entries = kept;
            left
        };
        let outcomes = left.into_iter().map(|(id, entry)| (id, entry.into_outcome()));
        outcomes.filter_map(|(id, outcome)| Some((id, outcome?))).collect()
    }

    /// Copies all that was left.
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
        self.outcome.is_some() && matches!(self.claim, Claim::Left)
    }

    fn into_outcome(self) -> Option<Outcome<T>> {
        let Self { outcome, claim, place } = self;
        // Wakes who waits for the place.
        drop_panic(|| drop((claim, place)));
        outcome
    }
}

impl<T> fmt::Debug for ResultStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultStore").field("entries", &self.lock().len()).finish_non_exhaustive()
    }
}
