//! A place where something is handed back, once, and somebody waits for it.

use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;

/// Holds what was handed back until it is taken.
pub(crate) struct ReturnSlot<T> {
    place: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> ReturnSlot<T> {
    pub(crate) fn new() -> Self {
        Self { place: Mutex::new(None), filled: Condvar::new() }
    }

    pub(crate) fn put(&self, thing: T) {
        *lock(&self.place) = Some(thing);
        self.filled.notify_all();
    }

    pub(crate) fn is_filled(&self) -> bool {
        lock(&self.place).is_some()
    }

    /// Waits for what is handed back, at most `wait_max`.
    #[must_use]
    pub(crate) fn take(&self, timeout: Duration) -> Option<T> {
        let place = lock(&self.place);
        let waited = self.filled.wait_timeout_while(place, timeout, |place| place.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl<T> fmt::Debug for ReturnSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturnSlot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_back_reaches_who_waits_and_nobody_else() {
        let place = ReturnSlot::new();
        assert_eq!(place.take(Duration::ZERO), None);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| place.take(Duration::from_secs(60)));
            place.put(7);
            assert_eq!(waiter.join().expect("no panic"), Some(7));
        });
        assert_eq!(place.take(Duration::ZERO), None);
    }
}
