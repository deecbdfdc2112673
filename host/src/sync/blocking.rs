//! Waits that block a thread: for the end of jobs that run beside their owner, for a returned
//! value, for a future. Needs no executor.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use super::lock;

/// The number of running jobs.
#[derive(Debug, Default)]
pub(crate) struct WaitGroup {
    running: Mutex<usize>,
    idle: Condvar,
}

/// A running job; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct WaitGuard(Arc<WaitGroup>);

impl WaitGroup {
    /// Counts a job.
    pub(crate) fn start(self: &Arc<Self>) -> WaitGuard {
        *lock(&self.running) += 1;
        WaitGuard(Arc::clone(self))
    }

    /// Returns whether no job is running.
    pub(crate) fn is_idle(&self) -> bool {
        *lock(&self.running) == 0
    }

    /// Waits until no job is running, at most until `deadline`; returns whether none is.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> bool {
        let running = lock(&self.running);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(running, left, |running| *running > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.idle.notify_all();
    }
}

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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the current thread until `future` is ready.
pub(crate) fn block_on<F: Future>(future: Pin<&mut F>) -> F::Output {
    block_on_until(future, None).expect("a wait without a deadline ends with an output")
}

/// Waits for `future` until it is ready or `deadline` has passed; forever without a deadline.
pub(crate) fn block_on_until<F: Future>(
    mut future: Pin<&mut F>,
    deadline: Option<Instant>,
) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match deadline {
            None => thread::park(),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                thread::park_timeout(left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sync::deadline_in;

    #[test]
    fn waiter_continues_after_last_job_even_if_it_panicked() {
        let group = Arc::new(WaitGroup::default());
        let (one, other) = (group.start(), group.start());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| group.wait_idle(deadline_in(Duration::from_secs(60))));
            drop(one);
            let panics = scope.spawn(move || {
                let _other = other;
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(panics.join().is_err());
            assert!(waiter.join().is_ok());
        });
        assert_eq!(*lock(&group.running), 0);
    }

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
