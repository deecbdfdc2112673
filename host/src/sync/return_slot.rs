//! A slot in which one thread returns a value and another waits for it.

use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;

/// Holds a returned value until it is taken.
pub(crate) struct ReturnSlot<T> {
    value: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> ReturnSlot<T> {
    pub(crate) fn new() -> Self {
        Self { value: Mutex::new(None), filled: Condvar::new() }
    }

    pub(crate) fn put(&self, value: T) {
        *lock(&self.value) = Some(value);
        self.filled.notify_all();
    }

    pub(crate) fn is_filled(&self) -> bool {
        lock(&self.value).is_some()
    }

    /// Waits for the value, at most `timeout`, and takes it.
    #[must_use]
    pub(crate) fn take(&self, timeout: Duration) -> Option<T> {
        let value = lock(&self.value);
        let waited = self.filled.wait_timeout_while(value, timeout, |value| value.is_none());
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
    fn returned_value_is_taken_once() {
        let slot = ReturnSlot::new();
        assert_eq!(slot.take(Duration::ZERO), None);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| slot.take(Duration::from_secs(60)));
            slot.put(7);
            assert_eq!(waiter.join().expect("no panic"), Some(7));
        });
        assert_eq!(slot.take(Duration::ZERO), None);
    }
}
