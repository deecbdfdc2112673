//! Counts work that goes on beside its owner, so that somebody can wait until there is none.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::lock;

/// How much work goes on.
#[derive(Debug, Default)]
pub(crate) struct WaitGroup {
    works: Mutex<usize>,
    idle: Condvar,
}

/// One piece of work; done when dropped, however it ended.
#[derive(Debug)]
pub(crate) struct WaitGuard(Arc<WaitGroup>);

impl WaitGroup {
    /// Begins a piece of work.
    pub(crate) fn start(self: &Arc<Self>) -> WaitGuard {
        *lock(&self.works) += 1;
        WaitGuard(Arc::clone(self))
    }

    /// Waits until no work goes on, at most until `deadline`.
    pub(crate) fn wait_idle(&self, deadline: Instant) {
        let works = lock(&self.works);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(works, left, |works| *works > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        *lock(&self.0.works) -= 1;
        self.0.idle.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::deadline_in;
    use std::time::Duration;

    #[test]
    fn who_waits_goes_on_when_the_last_work_is_done_even_by_a_panic() {
        let busy = Arc::new(WaitGroup::default());
        let (one, other) = (busy.start(), busy.start());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| busy.wait_idle(deadline_in(Duration::from_secs(60))));
            drop(one);
            let panics = scope.spawn(move || {
                let _other = other;
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(panics.join().is_err());
            assert!(waiter.join().is_ok());
        });
        assert_eq!(*lock(&busy.works), 0);
    }
}
