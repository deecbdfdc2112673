//! Counts jobs that run beside their owner, so that a thread can wait until none is left.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

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

    /// Waits until no job is running, at most until `deadline`.
    pub(crate) fn wait_idle(&self, deadline: Instant) {
        let running = lock(&self.running);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(running, left, |running| *running > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        *lock(&self.0.running) -= 1;
        self.0.idle.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::deadline_in;
    use std::time::Duration;

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
}
